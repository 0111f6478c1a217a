"""What vanished is found, and what did not is no gap: whatever is deleted, repeated or trimmed."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from iotplatform.domain.gap import (
    LaneFollower,
    LaneGap,
    LanePlace,
    LostPosition,
    SequenceGap,
    StreamState,
    describe_gaps,
    join_gaps,
    join_sequences,
    vanished,
)

# Lanes as lists of the counts of their blocks, and an order in which the stream has taken them.
lanes = st.dictionaries(st.sampled_from("abc"), st.lists(st.integers(0, 50), min_size=1, max_size=8), min_size=1)


def blocks_of(counts, order):
    """(lane, number, count, total) in stream order; a lane's own blocks keep theirs."""
    waiting = {
        lane: [(lane, index + 1, count, sum(own[: index + 1])) for index, count in enumerate(own)]
        for lane, own in counts.items()
    }
    stream = []
    while any(waiting.values()):
        left = sorted(lane for lane, blocks in waiting.items() if blocks)
        stream.append(waiting[order.draw(st.sampled_from(left))].pop(0))
    return stream


@given(lanes, st.data())
def test_each_missing_block_is_named_with_its_readings(counts, data):
    stream = blocks_of(counts, data)
    kept = [block for block in stream if data.draw(st.booleans())]
    follower = LaneFollower(0)
    for block in kept:
        follower.follow(*block, 1)
    named = {(gap.lane, number) for gap in follower.gaps for number in range(gap.first_number, gap.last_number + 1)}
    last = {lane: place.number for lane, place in follower.places.items()}
    # Behind a lane's last block nobody can know by numbers: that is what the stream's sequences are for.
    missing = [block for block in stream if block not in kept and block[1] < last.get(block[0], 0)]
    assert named == {(lane, number) for lane, number, _, _ in missing}
    assert sum(gap.readings for gap in follower.gaps) == sum(count for _, _, count, _ in missing)


@given(lanes, st.data())
def test_going_on_from_a_stored_position_finds_the_same(counts, data):
    """As persistence does after a restart, with what it had committed; and what it handled already is no gap."""
    stream = [block for block in blocks_of(counts, data) if data.draw(st.booleans())]
    at_once = LaneFollower(0)
    for block in stream:
        at_once.follow(*block, 1)
    cut = data.draw(st.integers(0, len(stream)))
    again_from = data.draw(st.integers(0, cut))
    before = LaneFollower(0)
    for block in stream[:cut]:
        before.follow(*block, 1)
    after = LaneFollower(0, before.places)
    for block in stream[again_from:]:
        after.follow(*block, 1)
    assert before.gaps + after.gaps == at_once.gaps
    assert {**before.places, **after.places} == at_once.places


def test_a_lane_begins_with_number_one():
    follower = LaneFollower(3)
    follower.follow("a", 4, 10, 35, 1)
    assert follower.gaps == [LaneGap(3, "a", 1, 3, 25)]


def test_a_total_that_does_not_add_up_is_a_gap_without_a_block():
    follower = LaneFollower(0, {"a": LanePlace(6, 60)})
    follower.follow("a", 7, 5, 70, 1)
    assert describe_gaps("ORG_a", follower.gaps) == ("lane a counts 5 readings too many before block 7 in partition 0",)


def test_a_number_that_is_known_takes_the_lane_nowhere():
    follower = LaneFollower(0, {"a": LanePlace(6, 60, 9)})
    assert follower.follow("a", 6, 10, 60, 99) == LanePlace(6, 60, 9)
    assert (follower.places, follower.gaps) == ({}, [])


@given(st.integers(0, 40), st.sets(st.integers(1, 40)), st.sets(st.integers(1, 40)), st.integers(0, 41))
def test_what_is_deleted_above_the_cut_and_nothing_below_has_vanished(last, trimmed, deleted, cut):
    """A stream as JetStream tells of it: its first sequence moves with what is missing in front."""
    gone = {sequence for sequence in trimmed if sequence < cut} | deleted
    left = [sequence for sequence in range(1, last + 1) if sequence not in gone]
    first = left[0] if left else last + 1
    state = StreamState(first, last, tuple(sequence for sequence in range(first, last + 1) if sequence in gone))
    found = vanished(state, cut)
    named = [sequence for gap in found for sequence in range(gap.first, gap.last + 1)]
    assert named == sorted(sequence for sequence in deleted if max(cut, 1) <= sequence <= last)


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 9))))
def test_joined_sequences_are_the_same_ones_in_order_and_apart(pairs):
    gaps = [SequenceGap(first, first + length) for first, length in pairs]
    joined = join_sequences(gaps)
    sequences = {sequence for gap in gaps for sequence in range(gap.first, gap.last + 1)}
    assert [sequence for gap in joined for sequence in range(gap.first, gap.last + 1)] == sorted(sequences)
    assert all(before.last + 1 < after.first for before, after in pairwise(joined))


def test_what_is_found_twice_is_said_once():
    gap = LaneGap(0, "3f", 7, 7, 100)
    gaps = join_gaps([SequenceGap(17, 17), gap, SequenceGap(17, 17), gap, LostPosition(1, 20), SequenceGap(18, 19)])
    assert describe_gaps("ORG_a", gaps) == (
        "lane 3f block 7 (100 readings) is missing in partition 0",
        "stream ORG_a ends below sequence 20, to which partition 1 was handled already",
        "sequences 17 to 19 of stream ORG_a were deleted",
    )


def test_a_single_sequence_and_several_blocks():
    assert describe_gaps("ORG_a", [SequenceGap(17, 17), LaneGap(2, "b", 3, 5, 9)]) == (
        "sequence 17 of stream ORG_a was deleted",
        "lane b blocks 3 to 5 (9 readings) are missing in partition 2",
    )


def test_a_hundred_sentences_and_the_number_of_the_others():
    gaps = [SequenceGap(2 * number, 2 * number) for number in range(1, 151)]
    sentences = describe_gaps("ORG_a", gaps, unread=7)
    assert len(sentences) == 101
    assert sentences[-1] == "and 57 more"
    assert describe_gaps("ORG_a", gaps[:100])[-1] == "sequence 200 of stream ORG_a was deleted"
    assert describe_gaps("ORG_a", []) == ()
