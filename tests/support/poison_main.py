"""`iotplatform` in which a reading of the device `poison` does what POISON says wherever its block is decoded.

`kill` ends the process as the system's memory killer would, `raise` is a mistake in our code.
"""

from __future__ import annotations

import os
import signal
import sys

from iotplatform.domain import reading
from iotplatform.domain.reading import Reading

decode = reading.decode_block


def decode_block(data: bytes) -> list[Reading]:
    readings = decode(data)
    if any(found.device_id == "poison" for found in readings):
        if os.environ["POISON"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise RuntimeError("this block is poisonous")
    return readings


if __name__ == "__main__":
    # Before anybody imports it by name.
    reading.decode_block = decode_block
    from iotplatform.cli import main

    sys.exit(main())
