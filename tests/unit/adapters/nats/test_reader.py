"""What a reader takes for the delivery that comes next."""

from __future__ import annotations

import pytest
from nats.aio.msg import Msg

from iotplatform.adapters.nats.reader import AckReply, Reader


async def nowhere():
    return 0


@pytest.fixture
def reader():
    """One that has just reset its consumer to what follows position 10."""
    made = Reader("ORG_orgA", "persistence_1_0", nowhere)
    made.state = "opening"
    made.expect_first(10, 0.0)
    made.confirmed = True
    return made


def deliver(reader, sequence, *, consumer_sequence, pin="ours"):
    message = Msg(None, "readings", "reply", b"", {"Nats-Pin-Id": pin})
    return reader.accept(message, AckReply("ORG_orgA", "persistence_1_0", sequence, consumer_sequence, 0, 0), 0.0)


def taken(reader):
    return [delivery.sequence for delivery in reader.buffer]


def test_what_follows_one_by_one(reader):
    # The stream's sequences have holes: other partitions are in it too.
    assert [deliver(reader, 12, consumer_sequence=1), deliver(reader, 15, consumer_sequence=2)] == ["queued", "queued"]
    assert taken(reader) == [12, 15]


def test_a_number_that_is_missing(reader):
    deliver(reader, 12, consumer_sequence=1)
    assert deliver(reader, 15, consumer_sequence=3) == "gap"


def test_one_that_comes_again(reader):
    deliver(reader, 12, consumer_sequence=1)
    assert deliver(reader, 12, consumer_sequence=2) == "gap"


def test_a_sequence_that_somebody_else_began_anew_and_that_goes_on_where_ours_would(reader):
    """Another process has reset the consumer to what follows 12, was given 15, and is gone: 16 is the second again."""
    assert deliver(reader, 12, consumer_sequence=1) == "queued"
    assert deliver(reader, 16, consumer_sequence=2, pin="a third one") == "gap"
    assert taken(reader) == [12]


def test_the_pin_of_before_a_reset_says_nothing_about_the_first_delivery_after_it(reader):
    deliver(reader, 12, consumer_sequence=1)
    reader.expect_first(12, 0.0)
    reader.confirmed = True
    assert deliver(reader, 15, consumer_sequence=1, pin="new") == "queued"
    assert deliver(reader, 16, consumer_sequence=2, pin="new") == "queued"
