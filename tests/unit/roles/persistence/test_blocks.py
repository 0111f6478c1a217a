"""From deliveries to what one partition's commit amounts to."""

from __future__ import annotations

import base64

import msgspec
import pytest

from iotplatform.adapters.nats.headers import CONTROL, COUNT, BlockHeaders
from iotplatform.adapters.nats.reader import Delivery
from iotplatform.adapters.postgres.persistence import LaneMark, PartitionWork
from iotplatform.domain.gap import LaneGap, LanePlace
from iotplatform.domain.reading import Reading, encode_readings, join_block
from iotplatform.roles.persistence.blocks import newest_of, prepare, reading_letter

SUBJECT = "readings.orgA.7.3.http"


def delivery(sequence, readings, *, number=1, lane="lane1", total=None, subject=SUBJECT, data=None, **changed):
    headers = BlockHeaders(1, lane, number, len(readings), total or len(readings), 1_000 + sequence).encode()
    data = data if data is not None else join_block([encode_readings(readings)], len(readings))
    return Delivery(sequence, 2_000 + sequence, subject, headers | changed, data, "reply")


def readings(*values, device="m", sensor="s", first_at=0):
    return [Reading(device, sensor, value, first_at + number) for number, value in enumerate(values)]


def test_blocks_become_one_piece_of_work():
    first, second = readings(1.0, 2.0), readings("on", True, first_at=10)
    prepared = prepare(7, 3, 4, [delivery(5, first), delivery(9, second, number=2, total=4)])
    assert prepared.work == PartitionWork(
        epoch=7,
        partition=3,
        before=4,
        after=9,
        readings=[(first[0], 5), (first[1], 5), (second[0], 9), (second[1], 9)],
        dead_lettered=0,
        lanes={"lane1": LaneMark("lane1", "http", 2, 4, 2_009)},
    )
    assert prepared.letters == []
    assert prepared.arrivals == [(1_005, 2), (1_009, 2)]


def test_every_lane_leaves_its_last_mark():
    prepared = prepare(
        7,
        3,
        0,
        [
            delivery(1, readings(1.0), lane="a", number=8, total=80),
            delivery(2, readings(1.0), lane="b", subject="readings.orgA.7.3.mqtt", total=1),
            delivery(3, readings(1.0), lane="a", number=9, total=81),
        ],
    )
    assert prepared.work.lanes == {
        "a": LaneMark("a", "http", 9, 81, 2_003),
        "b": LaneMark("b", "mqtt", 1, 1, 2_002),
    }


def test_a_block_that_cannot_be_read_becomes_a_letter_and_counts():
    good = readings(1.0)
    prepared = prepare(7, 3, 0, [delivery(1, readings(1.0, 2.0), data=b"\xc1garbage"), delivery(2, good, number=2)])
    (letter,) = prepared.letters
    assert (letter.id, letter.role, letter.reason, letter.readings) == (
        "persistence-3-1",
        "persistence",
        "undecodable",
        2,
    )
    assert base64.b64decode(letter.payload) == b"\xc1garbage"
    assert letter.encoding == "base64"
    assert letter.received_at == 2_001
    assert prepared.work.dead_lettered == 2
    assert prepared.work.readings == [(good[0], 2)]
    assert prepared.work.after == 2
    # The ledger's total counts the block: its readings were accepted.
    assert prepared.work.lanes["lane1"].number == 2


@pytest.mark.parametrize("claimed", ["1", "3"])
def test_a_block_that_does_not_hold_what_its_headers_count_is_not_stored(claimed):
    """Stored and dead-lettered together must be what the lane has counted as accepted."""
    prepared = prepare(7, 3, 0, [delivery(1, readings(1.0, 2.0), **{COUNT: claimed})])
    assert prepared.work.readings == []
    assert prepared.work.dead_lettered == int(claimed)
    assert "its headers say" in prepared.letters[0].detail


@pytest.mark.parametrize("headers", [{}, {COUNT: "5"}, {"Nats-Msg-Id": "x"}])
@pytest.mark.parametrize("data", [b"hello", b""])
def test_what_no_lane_has_made_is_kept_as_a_letter_and_not_counted(headers, data):
    foreign = Delivery(8, 2_008, SUBJECT, headers, data, "reply")
    prepared = prepare(7, 3, 7, [foreign])
    assert prepared.work == PartitionWork(7, 3, 7, 8)
    assert [letter.readings for letter in prepared.letters] == [0]
    assert prepared.arrivals == []


def test_a_foreign_block_is_not_stored_even_if_it_can_be_read():
    foreign = Delivery(8, 2_008, SUBJECT, {}, join_block([encode_readings(readings(1.0))], 1), "reply")
    prepared = prepare(7, 3, 7, [foreign])
    assert (prepared.work.readings, prepared.work.dead_lettered) == ([], 0)
    assert len(prepared.letters) == 1


def test_an_empty_block_moves_the_position_only():
    prepared = prepare(7, 3, 0, [delivery(1, [], total=5)])
    assert (prepared.work.readings, prepared.work.after, prepared.letters) == ([], 1, [])
    assert prepared.work.lanes["lane1"].total == 5


@pytest.mark.parametrize("header", ["Iot-Format", "Iot-Lane", "Iot-Number", "Iot-Count", "Iot-Total", "Iot-Arrived"])
def test_headers_that_are_incomplete_or_no_numbers_are_none(header):
    complete = BlockHeaders(1, "lane", 2, 3, 4, 5).encode()
    assert BlockHeaders.decode(complete) == BlockHeaders(1, "lane", 2, 3, 4, 5)
    assert BlockHeaders.decode({name: value for name, value in complete.items() if name != header}) is None
    if header != "Iot-Lane":
        assert BlockHeaders.decode(complete | {header: "x"}) is None
    assert BlockHeaders.decode(None) is None


class TestNewest:
    def newest(self, *entries, into=None):
        found = {} if into is None else into
        newest_of(PartitionWork(7, 0, 0, 9, readings=list(entries)), found)
        return found

    def test_the_largest_time_of_each_series(self):
        found = self.newest(
            (Reading("m", "s", 1.0, 10), 1),
            (Reading("m", "s", 2.0, 5), 2),
            (Reading("m", "t", 3.0, 1), 2),
            (Reading("n", "s", 4.0, 2), 2),
        )
        assert found == {("m", "s"): (10, 1, 1.0), ("m", "t"): (1, 2, 3.0), ("n", "s"): (2, 2, 4.0)}

    def test_of_equal_times_the_later_in_the_stream(self):
        assert self.newest((Reading("m", "s", 1.0, 10), 1), (Reading("m", "s", 2.0, 10), 2)) == {
            ("m", "s"): (10, 2, 2.0)
        }
        assert self.newest((Reading("m", "s", 1.0, 10), 1), (Reading("m", "s", 2.0, 10), 1)) == {
            ("m", "s"): (10, 1, 2.0)
        }

    def test_partitions_add_up(self):
        found = self.newest((Reading("m", "s", 1.0, 10), 1))
        assert self.newest((Reading("m", "s", 2.0, 9), 2), (Reading("n", "s", 3.0, 1), 2), into=found) == {
            ("m", "s"): (10, 1, 1.0),
            ("n", "s"): (1, 2, 3.0),
        }


def test_the_letter_of_one_reading_can_be_sent_again():
    letter = reading_letter(3, 9, 2, Reading("m", "s", "a\x00b", 5), "refused", 77)
    assert (letter.id, letter.reason, letter.device_id, letter.readings) == ("persistence-3-9-2", "unstorable", "m", 1)
    assert msgspec.json.decode(letter.payload) == {
        "device_id": "m",
        "sensor_name": "s",
        "value": "a\x00b",
        "timestamp": 5,
    }


class TestGaps:
    def test_numbers_that_follow_leave_none(self):
        known = {"lane1": LanePlace(4, 40, 1)}
        blocks = [delivery(5, readings(1.0), number=5, total=41), delivery(6, readings(1.0), number=6, total=42)]
        prepared = prepare(7, 3, 4, blocks, known)
        assert prepared.work.gaps == []
        assert prepared.places == {"lane1": LanePlace(6, 42, 2_006)}

    def test_a_missing_number_is_written_down_with_the_position(self):
        prepared = prepare(7, 3, 4, [delivery(6, readings(1.0), number=7, total=50)], {"lane1": LanePlace(4, 40, 1)})
        assert prepared.work.gaps == [LaneGap(3, "lane1", 5, 6, 9)]

    def test_the_same_again_leaves_the_lane_where_it_is(self):
        known = {"lane1": LanePlace(4, 40, 1)}
        prepared = prepare(7, 3, 4, [delivery(6, readings(1.0), number=4, total=40)], known)
        assert prepared.work.gaps == []
        assert prepared.work.lanes["lane1"] == LaneMark("lane1", "http", 4, 40, 1)


def test_a_control_message_moves_the_position_and_nothing_else():
    control = Delivery(6, 2_006, "readings.orgA.7.3.control", {CONTROL: "1"}, b"{}", "reply")
    prepared = prepare(7, 3, 4, [delivery(5, readings(1.0)), control])
    assert (prepared.work.after, prepared.work.dead_lettered, prepared.letters) == (6, 0, [])
    assert len(prepared.work.readings) == 1
