"""`iotplatform` with a detector: a blocking call of ours inside the event loop raises where it happens."""

from __future__ import annotations

import sys

from blockbuster import BlockBuster

from iotplatform.cli import main
from tests.support.blocking import allow_known

if __name__ == "__main__":
    detector = BlockBuster("iotplatform")
    allow_known(detector)
    detector.activate()
    # What asyncio.run does before and after the loop runs is no blocking of the loop.
    sys.exit(main())
