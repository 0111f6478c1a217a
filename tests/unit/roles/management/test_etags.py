from __future__ import annotations

import pytest

from iotplatform.errors import Rejected
from iotplatform.roles.management.etags import etag, precondition


@pytest.mark.parametrize(
    ("if_match", "if_none_match", "passing", "failing"),
    [
        (None, None, [None, 1, 7], []),
        (etag(3), None, [3], [None, 2, 4, 33]),
        ('"2", "3"', None, [2, 3], [None, 4]),
        ('"2","3"', None, [2, 3], [1, 23]),
        ("*", None, [1, 2], [None]),
        ('W/"3"', None, [], [None, 3]),
        ('"03"', None, [], [3]),
        ('"abc"', None, [], [None, 1]),
        ('"' + "9" * 30 + '"', None, [], [1]),
        (None, "*", [None], [1, 2]),
    ],
)
def test_which_versions_pass(
    if_match: str | None, if_none_match: str | None, passing: list[int | None], failing: list[int | None]
) -> None:
    wanted = precondition(if_match, if_none_match)
    for version in passing:
        wanted.check(version)
    for version in failing:
        with pytest.raises(Rejected) as caught:
            wanted.check(version)
        assert caught.value.kind == "stale"


@pytest.mark.parametrize(
    ("if_match", "if_none_match", "field"),
    [
        ("3", None, "If-Match"),
        ("", None, "If-Match"),
        ('"3" "4"', None, "If-Match"),
        ('"3', None, "If-Match"),
        ('"3",' * 400 + '"3"', None, "If-Match"),
        (None, '"3"', "If-None-Match"),
        ('"3"', "*", "If-None-Match"),
    ],
)
def test_headers_that_say_nothing(if_match: str | None, if_none_match: str | None, field: str) -> None:
    with pytest.raises(Rejected) as caught:
        precondition(if_match, if_none_match)
    assert caught.value.kind == "invalid"
    assert [fault.field for fault in caught.value.faults] == [field]
