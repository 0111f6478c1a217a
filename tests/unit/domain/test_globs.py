"""Many globs at once find what each of them finds by itself."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from iotplatform.domain.globs import GlobIndex

globs = st.lists(st.text(alphabet="ab*?[]!-", min_size=1, max_size=6), max_size=10)
names = st.text(alphabet="ab[]!-", max_size=8)


@given(globs, names)
@example(["*", "a*", "a?*", "ab", "[a-b]b", "a["], "ab")
@example(["*a*a*a*a*b"], "aaaaaaaa")
def test_as_each_by_itself(globs, name):
    index = GlobIndex()
    for number, glob in enumerate(globs):
        index.add(glob, number)
    assert sorted(index.find(name)) == [number for number, glob in enumerate(globs) if fnmatchcase(name, glob)]


@pytest.mark.parametrize("glob", ["temp{}", "temp{}*", "t?mp{}", "temp{}[x]"])
def test_ten_thousand_are_not_tried_one_by_one(glob, monkeypatch):
    """Those whose beginning is another are not looked at."""
    index, tried = GlobIndex(), []

    class Pattern:
        def match(self, name):
            tried.append(name)

    monkeypatch.setattr("iotplatform.domain.globs.glob_pattern", lambda _: Pattern())
    for number in range(10_000):
        index.add(glob.format(f"{number:05}"), number)
    index.find("humidity")
    assert tried == []
