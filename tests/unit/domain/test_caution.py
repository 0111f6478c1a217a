"""When blocks are taken up alone."""

from __future__ import annotations

import pytest

from iotplatform.adapters.nats.readers import MAX_TAKEN_PER_READER
from iotplatform.domain.caution import CAREFUL_BLOCKS, MAX_TRIES, Tries, careful_blocks


@pytest.mark.parametrize(
    ("tries", "is_careful"),
    [
        (Tries(), False),
        (Tries(holders=MAX_TRIES), False),
        (Tries(holders=MAX_TRIES + 1), True),
        # The last holder ended with a block taken up alone that is still to be handled.
        (Tries(holders=2, suspect=11, suspect_tries=1), True),
        (Tries(holders=2, suspect=10, suspect_tries=1), False),
        (Tries(holders=2, suspect=11, suspect_tries=0), False),
    ],
)
def test_careful_after_too_many_ends_or_with_a_suspect_ahead(tries: Tries, is_careful: bool) -> None:
    assert careful_blocks(tries, position=10) == (CAREFUL_BLOCKS if is_careful else 0)


def test_care_lasts_as_long_as_what_was_taken_together() -> None:
    assert CAREFUL_BLOCKS >= MAX_TAKEN_PER_READER
