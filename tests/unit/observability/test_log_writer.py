"""Lines are written by a thread: whoever reads them, or doesn't, never stops the platform."""

from __future__ import annotations

import io
import os
import threading

import pytest

from iotplatform.observability.log_writer import LineWriter


class Slow(io.BytesIO):
    """Writes when it is let."""

    def __init__(self):
        super().__init__()
        self.writing = threading.Event()
        self.let = threading.Event()

    def write(self, data):
        self.writing.set()
        self.let.wait(10)
        return super().write(data)


def test_lines_are_written_in_order_and_complete_after_closing():
    output, left_out = io.BytesIO(), []
    writer = LineWriter(output, lambda: left_out.append(1))
    for number in range(1_000):
        writer.info(b"%d" % number)
    writer.close()
    assert output.getvalue() == b"".join(b"%d\n" % number for number in range(1_000))
    assert left_out == []


def test_what_nobody_reads_is_left_out_and_counted():
    output, left_out = Slow(), []
    writer = LineWriter(output, lambda: left_out.append(1), max_lines=10)
    writer.info(b"first")
    assert output.writing.wait(10)
    for number in range(25):
        writer.warning(b"%d" % number)
    assert len(left_out) == 15
    output.let.set()
    writer.close()
    assert output.getvalue().split() == [b"first", *(b"%d" % number for number in range(10))]


def test_closing_does_not_wait_for_ever():
    output = Slow()
    writer = LineWriter(output, lambda: None, max_lines=1)
    writer.info(b"first")
    assert output.writing.wait(10)
    writer.info(b"second")
    writer.close(deadline_s=0.01)
    output.let.set()
    writer.close()


@pytest.mark.parametrize("closed_by", ["reader", "us"])
def test_a_reader_that_is_gone_is_no_error(closed_by):
    reading, writing = os.pipe()
    output = os.fdopen(writing, "wb", buffering=0)
    writer = LineWriter(output, lambda: None)
    if closed_by == "reader":
        os.close(reading)
    else:
        output.close()
    for _ in range(10):
        writer.error(b"line")
    writer.close()
    assert not writer._thread.is_alive()
    if closed_by == "reader":
        output.close()
    else:
        os.close(reading)
