"""Checking credentials: a device's token for the first time, from the cache, and as the short way of /ingest knows it.

    python benchmarks/tokens.py --tokens 20000

One JSON line a figure, on one core. PostgreSQL is left out: every row is found at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

from iotplatform.adapters.tokens.authenticator import Authenticator
from iotplatform.adapters.tokens.device_tokens import DeviceTokens
from iotplatform.adapters.tokens.keys import SigningKeys
from iotplatform.adapters.tokens.verifier import Verifier
from iotplatform.domain.credentials import DEVICE_KEY_PREFIX, ApiKey, DeviceCredential
from iotplatform.roles.ingest.senders import Senders

LATER = 1 << 60


class Rows:
    """In place of PostgreSQL's cache: every credential lives."""

    async def device_token(self, token_id: str) -> DeviceCredential:
        return DeviceCredential(token_id, 1, "bench", token_id, LATER)

    async def device_key(self, _: bytes) -> DeviceCredential:
        return DeviceCredential("key", 1, "bench", "device", LATER)

    async def api_key(self, _: bytes) -> ApiKey:
        return ApiKey("key", 1, "bench", frozenset({"ingest"}), None)

    async def account_of(self, _: str) -> None:
        return None

    def known_device(self, token_id: str) -> str:
        return token_id


class Known:
    def __init__(self, keys: SigningKeys) -> None:
        self.credentials = Rows()
        self.pems = dict(keys.public_pems)

    async def public_key(self, kid: str) -> str | None:
        return self.pems.get(kid)

    def known_key(self, kid: str) -> str | None:
        return self.pems.get(kid)


def token_of(keys: SigningKeys, name: str) -> str:
    now = int(time.time())
    return DeviceTokens(keys).issue("bench", name, name, now, now + 3_600)


async def rate(step: Callable[[int], Awaitable[object] | object], count: int) -> float:
    began = time.perf_counter()
    for number in range(count):
        done = step(number)
        if asyncio.iscoroutine(done):
            await done
    return count / (time.perf_counter() - began)


async def run(count: int) -> None:
    keys = SigningKeys.load([SigningKeys.make_pem()])
    directory: Any = Known(keys)

    async def live(_: str) -> bool:
        return True

    authenticator = Authenticator(Verifier(directory.public_key, live), directory.credentials)
    senders = Senders(authenticator, directory, required=True)
    tokens = [token_of(keys, f"device-{number}") for number in range(count)]
    headers = [f"Bearer {token}".encode() for token in tokens]
    cases: tuple[tuple[str, Callable[[int], Any]], ...] = (
        ("token, first time", lambda number: authenticator.device(tokens[number])),
        ("token, cached", lambda number: authenticator.device(tokens[number])),
        ("opaque key", lambda _: authenticator.device(DEVICE_KEY_PREFIX + "x" * 22)),
        ("header, ordinary way", lambda number: senders.find(headers[number])),
        ("header, short way", lambda number: senders.known(headers[number])),
    )
    for name, step in cases:
        print(json.dumps({"benchmark": "tokens", "case": name, "per_s": round(await rate(step, count))}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=20_000)
    asyncio.run(run(parser.parse_args().tokens))


if __name__ == "__main__":
    main()
