from pathlib import Path

import pytest

from iotplatform.adapters.embedded.quoting import quoted


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", '"plain"'),
        (Path("/a b/$HOME"), '"/a b/$HOME"'),
        ('a"b\\c', r'"a\x22b\x5cc"'),
        ("line\nport: 1", r'"line\x0aport: 1"'),
        ("é", r'"\xc3\xa9"'),
        ("\udcff", r'"\xff"'),
    ],
)
def test_nothing_gets_out_of_its_quotes(value, text):
    assert quoted(value) == text
