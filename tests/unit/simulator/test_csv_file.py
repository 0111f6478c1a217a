from __future__ import annotations

import itertools
from datetime import UTC, datetime
from pathlib import Path

import pytest

from iotplatform.errors import Rejected
from iotplatform.simulator.csv_file import read_csv
from iotplatform.simulator.traffic import Series

NAB = Path(__file__).parents[2] / "data" / "nab" / "machine_temperature_system_failure.csv"


@pytest.fixture
def write(tmp_path):
    def write(text, encoding="utf-8"):
        path = tmp_path / "readings.csv"
        path.write_bytes(text.encode(encoding))
        return path

    return write


def test_the_real_file_keeps_its_order_doubles_and_its_jump_back():
    readings = list(read_csv(NAB))
    times = [time for time, _ in readings]
    assert len(readings) == 22_695
    assert readings[1] == (datetime(2013, 12, 2, 21, 20, tzinfo=UTC), 74.93588199999998)
    assert sum(after < before for before, after in itertools.pairwise(times)) == 1
    assert len(set(times)) == 22_683


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2013-12-02 21:15:00", datetime(2013, 12, 2, 21, 15, tzinfo=UTC)),
        ("2013-12-02T21:15:00Z", datetime(2013, 12, 2, 21, 15, tzinfo=UTC)),
        ("2013-12-02t23:15:00.5+02:00", datetime(2013, 12, 2, 21, 15, 0, 500_000, tzinfo=UTC)),
        ("1386018900", datetime(2013, 12, 2, 21, 15, tzinfo=UTC)),
        ("1386018900.123456", datetime(2013, 12, 2, 21, 15, 0, 123_456, tzinfo=UTC)),
        ("1386018900123", datetime(2013, 12, 2, 21, 15, 0, 123_000, tzinfo=UTC)),
        ("1386018900123456", datetime(2013, 12, 2, 21, 15, 0, 123_456, tzinfo=UTC)),
        ("1386018900123456789", datetime(2013, 12, 2, 21, 15, 0, 123_456, tzinfo=UTC)),
        ("0", datetime(1970, 1, 1, tzinfo=UTC)),
    ],
)
def test_every_form_of_time(write, text, expected):
    assert list(read_csv(write(f"{text},1\n"))) == [(expected, 1.0)]


@pytest.mark.parametrize(
    "text", ["timestamp,value\r\n0,1.5\r\n", "\ufeffTimestamp, Value\n0,1.5", "\n0,1.5\n\n", '"0","1.5"\n']
)
def test_a_header_a_mark_and_blank_lines_are_not_readings(write, text):
    assert [value for _, value in read_csv(write(text))] == [1.5]


@pytest.mark.parametrize(
    ("text", "line", "about"),
    [
        ("timestamp,value\n2013-13-02 21:15:00,1\n", 2, "does not exist"),
        ("timestamp,value\n0,1\nyesterday,1\n", 3, "timestamp 'yesterday'"),
        ("0,1\n0,nan\n", 2, "value 'nan'"),
        ("0,1e999\n", 1, "finite"),
        ("0,1_000\n", 1, "finite"),
        ("0,\n", 1, "value ''"),
        ("0,1,2\n", 1, "found 3"),
        ("0,1\n\n0\n", 3, "found 1"),
        ("0,1\ntimestamp,value\n", 2, "timestamp 'timestamp'"),
        ("-1,1\n", 1, "1970"),
        ("1969-12-31 23:59:59,1\n", 1, "1970"),
        ("9999-12-31 23:59:59-01:00,1\n", 1, "9999"),
        ("1e20,1\n", 1, "too large"),
        ("2013-12-02,1\n", 1, "RFC 3339"),
        ('0,1\n"0,1\n', 2, "end of data"),
    ],
)
def test_a_bad_line_is_named(write, text, line, about):
    with pytest.raises(Rejected, match=rf"readings\.csv, line {line}: .*{about}") as refused:
        read_csv(write(text))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "timestamp,value\n"])
def test_a_file_without_readings_is_refused(write, text):
    with pytest.raises(Rejected, match="holds no readings"):
        read_csv(write(text))


def test_what_cannot_be_read_is_refused(write, tmp_path):
    with pytest.raises(Rejected, match="No such file"):
        read_csv(tmp_path / "absent.csv")
    with pytest.raises(Rejected, match="Is a directory"):
        read_csv(tmp_path)
    with pytest.raises(Rejected, match="not UTF-8"):
        read_csv(write("0,1\n", encoding="utf-16"))


def test_a_rate_spreads_the_file_over_time(write):
    file = read_csv(write("5,1\n3,2\n4,3\n"))
    [lane] = file.replay(Series("lab", "machine", "temperature"), rate=4.0).lanes
    assert [(due.after_s, due.reading.value) for due in lane] == [(0.0, 1.0), (0.25, 2.0), (0.5, 3.0)]
