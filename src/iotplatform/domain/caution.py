"""Bounded tries: when a partition is handled block by block, and when a block is given up.

A block can end the process that handles it, so the count of tries lives where the position lives. It counts those who
took hold of the partition since its position last moved; whoever lets go in order takes his own count back, so all but
the present holder's have ended in its midst. From MAX_TRIES of them on every block is taken up alone, and written down
as the suspect before; one that was taken up alone MAX_TRIES times is given up.
"""

from __future__ import annotations

from typing import Final

import msgspec

MAX_TRIES: Final = 3
# What ended the last holder was among the blocks that it had taken together, which were not more than this.
CAREFUL_BLOCKS: Final = 256


class Tries(msgspec.Struct, frozen=True):
    """`holders` that have taken hold since the position last moved; the sequence `suspect` and its tries alone."""

    holders: int = 1
    suspect: int = 0
    suspect_tries: int = 0


def careful_blocks(tries: Tries, position: int) -> int:
    """How many of the blocks behind `position` are to be taken up alone."""
    ended = tries.holders - 1
    is_suspected = tries.suspect > position and tries.suspect_tries > 0
    return CAREFUL_BLOCKS if ended >= MAX_TRIES or is_suspected else 0


def given_up_detail(tries: int) -> str:
    """For the letter of a block that was given up."""
    return f"handling it alone ended the process or failed {tries} times"
