"""From blocks and stored states to changed states and transitions."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotplatform.domain.alarm import AlarmCleared, AlarmRaised, alarm_id, transition_id
from iotplatform.domain.conditions import NoData
from iotplatform.domain.control import ClearAlarm, ForgetDevice
from iotplatform.domain.organization import Organization
from iotplatform.domain.presence import ALWAYS, Presence
from iotplatform.domain.reading import Reading
from iotplatform.domain.rule import Rule, Threshold
from iotplatform.roles.analysis.blocks import DecodedBlock, DecodedControl, wanted_series
from iotplatform.roles.analysis.evaluator import Evaluation, evaluate_blocks, evaluate_in_slices
from iotplatform.roles.analysis.rule_index import RuleIndex
from iotplatform.roles.analysis.silences import Silences
from iotplatform.roles.analysis.states import series_key, unpack_states
from iotplatform.runtime.pace import Pace

S = 1_000_000
ORGANIZATION = Organization("orgA", 7, "A Corp", 1, 0)


def rule(rule_id="default", sensor="temp*", operator=">", threshold=80.0, **changes):
    return Rule(rule_id, "orgA", f"Rule {rule_id}", sensor, Threshold(operator, threshold), **changes)


def block(position, *values, device="m", sensor="temp1", first_at=0):
    readings = [Reading(device, sensor, value, first_at + number) for number, value in enumerate(values)]
    return DecodedBlock(position, 1_000 + position, readings)


class Partition:
    """States between calls live where Redis would have them: packed."""

    def __init__(self, *rules, presence=ALWAYS):
        self.stored = {}
        self.silences = Silences()
        self.position = 0
        self.presence = presence
        self.index = RuleIndex(list(rules))

    def feed(self, *blocks):
        wanted = wanted_series(blocks, self.index)
        if any(isinstance(piece, DecodedControl) and isinstance(piece.control, ForgetDevice) for piece in blocks):
            wanted |= self.stored.keys()
        wanted |= {
            key
            for key, _ in self.silences.due(
                max([piece.stored_at for piece in blocks if isinstance(piece, DecodedBlock)], default=0)
            )
        }
        states = {key: unpack_states(self.stored.get(key)) for key in wanted}
        evaluation = Evaluation(
            ORGANIZATION, self.index, states, self.silences, presence=self.presence, position=self.position
        )
        outcome = evaluate_blocks(evaluation, blocks)
        self.position = blocks[-1].position if blocks else self.position
        for key, packed in outcome.states.items():
            if packed:
                self.stored[key] = packed
            else:
                self.stored.pop(key, None)
        # What the role keeps in memory is what Redis has.
        assert all(unpack_states(self.stored.get(key)) == states[key] for key in wanted)
        return outcome


def test_an_alarm_says_everything_about_its_breaches():
    partition = Partition(rule())
    partition.feed(block(5, 85.0, first_at=100))
    outcome = partition.feed(block(6, 70.0, device="other"), block(9, 86.0, 87.0, 88.0, first_at=200))
    (raised,) = outcome.transitions
    assert raised == AlarmRaised(
        alarm_id=alarm_id("orgA", 7, "default", "m", "temp1", 9, 1),
        organization_id="orgA",
        epoch=7,
        rule_id="default",
        rule_name="Rule default",
        severity="major",
        condition="> 80, 3 in a row",
        device_id="m",
        sensor="temp1",
        raised_at=201,
        first_breach_at=100,
        trigger_value=87.0,
        readings=[(100, 85.0), (200, 86.0), (201, 87.0)],
        position=9,
        arrived_at=1_009,
    )


def test_a_clearing_names_the_alarm_that_it_ends():
    partition = Partition(rule(raise_after=1))
    (raised,) = partition.feed(block(1, 90.0)).transitions
    (cleared,) = partition.feed(block(2, 90.0, 70.0, 70.0)).transitions
    assert isinstance(cleared, AlarmCleared)
    assert cleared.alarm_id == raised.alarm_id
    assert (cleared.cleared_at, cleared.value, cleared.position, cleared.arrived_at) == (1, 70.0, 2, 1_002)
    assert (cleared.rule_id, cleared.device_id, cleared.sensor, cleared.epoch) == ("default", "m", "temp1", 7)


def test_nothing_is_written_for_what_did_not_change():
    partition = Partition(rule())
    assert partition.feed(block(1, 70.0, 71.0)).states == {}
    partition.feed(block(2, 90.0, 90.0, 90.0))
    outcome = partition.feed(block(3, 90.0, 95.0))
    assert (outcome.states, outcome.transitions, outcome.breaches) == ({}, [], [])


def test_a_series_back_at_the_beginning_is_removed():
    partition = Partition(rule())
    key = series_key("m", "temp1")
    assert partition.feed(block(1, 90.0)).states[key] != b""
    assert partition.feed(block(2, 70.0)).states == {key: b""}
    assert partition.stored == {}
    # Also when it comes and goes within one call.
    assert partition.feed(block(3, 90.0, 70.0)).states.get(key, b"") == b""
    partition.feed(block(4, 90.0, 90.0, 90.0))
    assert partition.feed(block(5, 70.0)).states == {key: b""}


def test_series_do_not_touch_each_other():
    partition = Partition(rule())
    partition.feed(block(1, 90.0, 90.0), block(2, 90.0, device="n"), block(3, 90.0, sensor="temp2"))
    outcome = partition.feed(block(4, 90.0))
    assert [(found.device_id, found.sensor) for found in outcome.transitions] == [("m", "temp1")]
    assert set(partition.stored) == {series_key("m", "temp1"), series_key("n", "temp1"), series_key("m", "temp2")}


def test_several_rules_on_one_series_count_for_themselves():
    partition = Partition(
        rule("hot", threshold=80.0, raise_after=2), rule("cold", operator="<", threshold=85.0, raise_after=2)
    )
    outcome = partition.feed(block(1, 82.0, 83.0, 90.0, 70.0))
    found = [(type(transition).__name__, transition.rule_id) for transition in outcome.transitions]
    assert found == [
        ("AlarmRaised", "hot"),
        ("AlarmRaised", "cold"),
        ("AlarmCleared", "cold"),
        ("AlarmCleared", "hot"),
    ]
    ids = {transition.alarm_id for transition in outcome.transitions}
    assert len(ids) == 2


def test_transitions_come_in_stream_order():
    partition = Partition(rule(raise_after=1))
    outcome = partition.feed(block(1, 90.0, 70.0, 90.0), block(2, 70.0, device="m"), block(3, 90.0, device="n"))
    assert [(transition.device_id, transition.position) for transition in outcome.transitions] == [
        ("m", 1), ("m", 1), ("m", 1), ("m", 2), ("n", 3),
    ]  # fmt: skip


def test_booleans_count_as_zero_and_one_and_text_not_at_all():
    partition = Partition(rule(sensor="door", operator=">=", threshold=1.0, raise_after=2))
    outcome = partition.feed(block(1, True, "open", "99", True, sensor="door"))
    (raised,) = outcome.transitions
    assert raised.readings == [(0, 1.0), (3, 1.0)]
    assert type(raised.trigger_value) is float
    assert len(partition.feed(block(2, False, sensor="door")).transitions) == 1


def test_readings_that_no_rule_looks_at_need_no_state():
    partition = Partition(rule(), rule("off", sensor="hum*", enabled=False))
    blocks = [block(1, 90.0), block(2, 90.0, sensor="humidity")]
    assert wanted_series(blocks, partition.index) == {series_key("m", "temp1")}
    assert set(partition.feed(*blocks).states) == {series_key("m", "temp1")}


def test_breaches_are_told_with_their_count():
    partition = Partition(rule())
    outcome = partition.feed(block(1, 90.0, 91.0), block(2, 92.0, 93.0))
    assert [(breach.value, breach.streak) for breach in outcome.breaches] == [(90.0, 1), (91.0, 2), (92.0, 3)]
    assert {(breach.device_id, breach.sensor, breach.rule_id) for breach in outcome.breaches} == {
        ("m", "temp1", "default")
    }


def test_a_rule_that_is_gone_leaves_its_state_alone():
    """What happens to its alarm is a matter of management; a state in the way would be one of the engine."""
    partition = Partition(rule("old", raise_after=1))
    partition.feed(block(1, 90.0))
    partition.index = RuleIndex([rule("new", raise_after=2)])
    outcome = partition.feed(block(2, 90.0, 90.0))
    assert [transition.rule_id for transition in outcome.transitions] == ["new"]
    assert set(unpack_states(partition.stored[series_key("m", "temp1")])) == {"old", "new"}


readings = st.builds(
    Reading,
    st.sampled_from(["m", "n"]),
    st.sampled_from(["temp1", "temp2", "door"]),
    st.sampled_from([70.0, 90.0, True, "text"]),
    st.integers(0, 100),
)
rules = st.lists(
    st.builds(
        rule,
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from(["temp*", "*", "door"]),
        st.sampled_from([">", "<="]),
        st.just(80.0),
        raise_after=st.integers(1, 3),
        clear_after=st.integers(1, 2),
    ),
    unique_by=lambda made: made.id,
    max_size=3,
)


@given(rules, st.lists(st.lists(readings, max_size=8), max_size=8), st.data())
def test_however_blocks_are_taken_together_the_outcome_is_the_same(some_rules, contents, data):
    """A commit takes whatever is waiting, and after a crash something else waits."""
    blocks = [DecodedBlock(position, position, content) for position, content in enumerate(contents, 1)]
    together = Partition(*some_rules)
    whole = together.feed(*blocks).transitions
    in_parts = Partition(*some_rules)
    found, rest = [], blocks
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        found += in_parts.feed(*rest[:size]).transitions
        rest = rest[size:]
    assert found == whole
    assert {key: unpack_states(packed) for key, packed in in_parts.stored.items()} == {
        key: unpack_states(packed) for key, packed in together.stored.items()
    }


@given(rules, st.lists(st.lists(readings, max_size=8), max_size=8), st.integers(1, 5))
async def test_in_slices_the_outcome_is_the_same(some_rules, contents, steps):
    blocks = [DecodedBlock(position, position, content) for position, content in enumerate(contents, 1)]
    index = RuleIndex(some_rules)
    states = [{key: {} for key in wanted_series(blocks, index)} for _ in range(2)]
    whole = evaluate_blocks(Evaluation(ORGANIZATION, index, states[0]), blocks)
    assert await evaluate_in_slices(Evaluation(ORGANIZATION, index, states[1]), blocks, Pace(steps)) == whole
    assert states[0] == states[1]


async def test_others_get_their_turns_while_a_large_block_is_evaluated():
    index = RuleIndex([rule(raise_after=1)])
    large = DecodedBlock(1, 1, [Reading(f"d{number}", "temp1", 90.0, number) for number in range(10_000)])
    states = {key: {} for key in wanted_series([large], index)}
    turns = 0
    done = asyncio.Event()

    async def other():
        nonlocal turns
        while not done.is_set():
            turns += 1
            await asyncio.sleep(0)

    async def evaluate():
        await evaluate_in_slices(Evaluation(ORGANIZATION, index, states), [large], Pace(500))
        done.set()

    await asyncio.gather(other(), evaluate())
    # The readings, and then the states that they have changed.
    assert turns >= 2 * 10_000 / 500


@pytest.mark.parametrize("packed", [None, b""])
def test_no_state_is_an_empty_one(packed):
    assert unpack_states(packed) == {}


def test_the_packed_form_is_for_ever():
    """States outlive the version that wrote them."""
    partition = Partition(rule(raise_after=2))
    partition.feed(block(1, 90.0))
    packed = partition.stored[series_key("m", "temp1")]
    mark = rule().mark
    assert msgspec.msgpack.decode(packed) == {"default": [1, 0, None, [[0, 90.0]], mark, None, [], 0]}
    assert series_key("m", "temp1") == b"m\x00temp1"


def raised_and_cleared(outcome):
    return [(type(found).__name__[5:].lower(), found.device_id, found.position) for found in outcome.transitions]


def test_a_rule_with_another_mark_clears_at_the_next_reading_and_counts_from_the_beginning():
    """When a reading comes before the upkeep."""
    partition = Partition(rule(raise_after=2))
    (raised,) = partition.feed(block(1, 90.0, 90.0)).transitions
    partition.index = RuleIndex([rule(raise_after=2, threshold=85.0)])
    (cleared,) = partition.feed(block(2, 90.0)).transitions
    assert (cleared.alarm_id, cleared.reason, cleared.value) == (raised.alarm_id, "rule_changed", None)
    assert raised_and_cleared(partition.feed(block(3, 90.0))) == [("raised", "m", 3)]


def test_a_hand_clears_only_the_alarm_that_it_means():
    partition = Partition(rule(raise_after=1))
    (raised,) = partition.feed(block(1, 90.0)).transitions
    for alarm, expected in (
        (raised.alarm_id[::-1], []),
        (raised.alarm_id, [("cleared", "m", 3)]),
        (raised.alarm_id, []),
    ):
        hand = DecodedControl(3, 0, ClearAlarm(alarm, "default", "m", "temp1", "ann", 77))
        assert raised_and_cleared(partition.feed(hand)) == expected
    # Of a series that nobody has heard of, too.
    stranger = ClearAlarm("x", "default", "stranger", "temp1", "ann", 77)
    assert raised_and_cleared(partition.feed(DecodedControl(4, 0, stranger))) == []


def test_a_device_is_forgotten_with_all_its_series_and_no_other():
    partition = Partition(rule(raise_after=1), rule("slow", raise_after=5))
    partition.feed(block(1, 90.0, sensor="temp2"), block(2, 90.0), block(3, 90.0, device="m2"))
    outcome = partition.feed(DecodedControl(4, 0, ForgetDevice("m", "ann", 77)))
    assert {(found.sensor, found.reason, found.by, found.cleared_at) for found in outcome.transitions} == {
        ("temp1", "device_deleted", "ann", 77),
        ("temp2", "device_deleted", "ann", 77),
    }
    assert set(partition.stored) == {series_key("m2", "temp1")}


def silent(after_s=10.0, **changes):
    return Rule("silent", "orgA", "Silent", "temp*", NoData(after_s), **changes)


def stored(position, at_s, *values, device="m"):
    readings = [Reading(device, "temp1", value, 0) for value in values]
    return DecodedBlock(position, 0, readings, at_s * S)


def test_silence_is_noticed_by_the_blocks_of_others_and_ends_with_a_reading():
    partition = Partition(silent())
    outcome = partition.feed(
        stored(1, 100, 1.0),
        stored(2, 105, 1.0, device="n"),
        stored(3, 109, 1.0, device="n"),
        stored(4, 110, 1.0, device="n"),
        stored(5, 130, "text"),
    )
    assert raised_and_cleared(outcome) == [
        ("raised", "m", 3), ("raised", "n", 4), ("cleared", "m", 5),
    ]  # fmt: skip
    first, second, _ = outcome.transitions
    assert (first.first_breach_at, first.raised_at, first.trigger_value) == (100 * S, 110 * S, 10.0)
    assert second.raised_at == 120 * S
    assert first.alarm_id == alarm_id("orgA", 7, "silent", "m", "temp1", 3, -1)


@given(st.lists(st.tuples(st.sampled_from(["m", "n"]), st.integers(0, 12)), max_size=25), st.integers(1, 3), st.data())
def test_however_blocks_are_taken_together_silence_is_the_same(arrivals, clear_after, data):
    at, blocks = 100, []
    for position, (device, wait) in enumerate(arrivals, 1):
        at += wait
        blocks.append(stored(position, at, 1.0, device=device))
    whole = Partition(silent(clear_after=clear_after)).feed(*blocks).transitions
    in_parts, found, rest = Partition(silent(clear_after=clear_after)), [], blocks
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        found += in_parts.feed(*rest[:size]).transitions
        rest = rest[size:]
    assert found == whole


@given(rules, st.lists(st.lists(readings, max_size=8), max_size=8), st.data())
def test_redelivering_any_suffix_changes_nothing(some_rules, contents, data):
    """What is stored decides where to go on: what comes again is dropped, or comes to the same under the same ids."""
    blocks = [DecodedBlock(position, position, content) for position, content in enumerate(contents, 1)]
    whole = Partition(*some_rules).feed(*blocks).transitions
    partition, position, told = Partition(*some_rules), 0, {}
    while position < len(blocks):
        # Deliveries begin anywhere up to what comes next, as after a reset.
        start = data.draw(st.integers(0, position))
        end = data.draw(st.integers(position + 1, len(blocks)))
        fresh = [block for block in blocks[start:end] if block.position > position]
        before = dict(partition.stored)
        outcome = partition.feed(*fresh)
        if data.draw(st.booleans()):  # it dies before the commit
            partition.stored = before
            continue
        position = fresh[-1].position
        for transition in outcome.transitions:
            told[transition_id(transition)] = transition
    assert list(told.values()) == whole


@pytest.mark.parametrize(
    ("presence", "expected"),
    [
        (Presence(0, 200), [("raised", "m", 1)]),
        (Presence(0, 111), [("raised", "m", 1)]),  # a moment ago it was there
        (Presence(0, 105), []),  # and what came in between, nobody knows
        (Presence(101, 200), []),  # it was away, and ten seconds have not passed since
        (Presence(100, 200), [("raised", "m", 1)]),
    ],
)
def test_silence_counts_only_while_somebody_could_hear(presence, expected):
    in_microseconds = Presence(presence.since * S, presence.until * S)
    partition = Partition(silent(), presence=in_microseconds)
    partition.feed(stored(1, 99, 1.0))
    assert raised_and_cleared(partition.feed(stored(2, 110, 1.0, device="n"))) == expected


def test_a_silence_that_ends_with_the_first_block_after_a_take_over_is_told():
    partition = Partition(silent())
    partition.feed(stored(1, 100, 1.0))
    partition.silences = Silences()
    assert raised_and_cleared(partition.feed(stored(2, 115, 1.0))) == [("raised", "m", 2), ("cleared", "m", 2)]
