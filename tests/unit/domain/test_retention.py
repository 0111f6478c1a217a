"""How long a reading is kept: the device's word before the organization's, a sensor's before the rest."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotplatform.domain.retention import Retention, days_of

GLOBS = st.sampled_from(["a", "ab", "abc", "a*", "ab*", "*", "?b", "[ab]*", "*c"])
DAYS = st.none() | st.integers(1, 9)
SAID = st.fixed_dictionaries({}, optional={"days": DAYS, "sensors": st.dictionaries(GLOBS, DAYS, max_size=4)})


@given(SAID, st.none() | SAID, st.sampled_from(["a", "ab", "abc", "b", "c"]))
def test_the_most_precise_word_counts(organization: Any, device: Any, sensor: str) -> None:
    """As one would look it up by hand."""
    expected = None
    for said in (device, organization):
        if said is None:
            continue
        globs = said.get("sensors", {})
        matching = [glob for glob in globs if fnmatchcase(sensor, glob)]
        if sensor in globs:
            expected = globs[sensor]
            break
        if matching:
            heads = {glob: min(glob.find(sign) for sign in "*?[" if sign in glob) for glob in matching}
            expected = globs[max(matching, key=lambda glob: (heads[glob], len(glob), glob))]
            break
        if "days" in said:
            expected = said["days"]
            break
    given_device = None if device is None else msgspec.convert(device, Retention)
    assert days_of(msgspec.convert(organization, Retention), given_device, sensor) == expected


@pytest.mark.parametrize(
    "body",
    [
        {"days": 0},
        {"days": 36_501},
        {"days": 1.5},
        {"days": "7"},
        {"sensors": {"": 1}},
        {"sensors": {"a\x00": 1}},
        {"sensors": {"a" * 513: 1}},
        {"sensors": {"a": -1}},
        {"sensors": {str(number): 1 for number in range(51)}},
        {"months": 3},
    ],
)
def test_what_is_not_days_is_refused(body: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(body, Retention)


def test_for_ever_is_not_the_same_as_nothing_said() -> None:
    for text in (b'{"days":null}', b'{"days":7,"sensors":{"a":null}}', b"{}"):
        assert msgspec.json.encode(msgspec.json.decode(text, type=Retention)) == text
