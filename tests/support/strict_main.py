"""`iotplatform` with a detector: once it is ready, a blocking call of ours in the event loop raises where it happens.

Starting and stopping may read files; serving may not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from blockbuster import BlockBuster

from iotplatform.app.platform import Platform
from iotplatform.app.runtime_file import RuntimeFile
from iotplatform.cli import main
from tests.support.blocking import allow_known
from tests.support.statements import start_recording

detector = BlockBuster("iotplatform")
allow_known(detector)
unwatched = Platform.run


async def run(self: Platform, on_ready: Callable[[RuntimeFile, float], None]) -> None:
    def ready(file: RuntimeFile, took_s: float) -> None:
        on_ready(file, took_s)
        detector.activate()

    await unwatched(self, ready)


if __name__ == "__main__":
    start_recording()
    Platform.run = run  # type: ignore[method-assign]
    sys.exit(main())
