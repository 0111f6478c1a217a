"""Looking at InfluxDB as a doctor would: briefly, and without changing anything."""

from __future__ import annotations

import asyncio
from typing import Final

from iotplatform.adapters.influx.client import InfluxClient
from iotplatform.adapters.influx.settings import InfluxSettings
from iotplatform.domain.finding import Finding, ok, problem
from iotplatform.errors import Unavailable

WITHIN_S: Final = 5.0


async def examine_influx(settings: InfluxSettings) -> list[Finding]:
    client = await InfluxClient.open(settings)
    try:
        async with asyncio.timeout(WITHIN_S):
            await client.ping()
    except Unavailable as error:
        return [problem("InfluxDB", error.detail, "start it, or correct the section influx; readings wait meanwhile")]
    except TimeoutError:
        return [problem("InfluxDB", f"it does not answer within {WITHIN_S:g} s", "look at its load and its log")]
    finally:
        await client.close()
    return [ok("InfluxDB", f"reachable, and bucket {settings.bucket} takes readings")]
