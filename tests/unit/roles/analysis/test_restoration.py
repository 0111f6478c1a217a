"""States after a loss are those of the run that was never disturbed, as far as the kept stream reaches."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from iotplatform.domain.alarm import AlarmRaised
from iotplatform.domain.episode import Episode
from iotplatform.domain.evaluation import INITIAL, RuleState
from iotplatform.domain.organization import Organization
from iotplatform.domain.reading import Reading
from iotplatform.domain.rule import Rule, Threshold
from iotplatform.roles.analysis.blocks import DecodedBlock
from iotplatform.roles.analysis.evaluator import Evaluation
from iotplatform.roles.analysis.restoration import Restoration
from iotplatform.roles.analysis.rule_index import RuleIndex
from iotplatform.roles.analysis.states import series_key

ORGANIZATION = Organization("orgA", 7, "A Corp", 1, 0)
KEY = series_key("m", "temp")
TOP = 1_000_000


def rule(rule_id="default", **changes):
    return Rule(rule_id, "orgA", f"Rule {rule_id}", "temp*", Threshold(">", 80.0), **changes)


def block(position, *values, device="m", sensor="temp"):
    return DecodedBlock(position, 0, [Reading(device, sensor, value, position) for value in values])


class Undisturbed:
    """A run with everything at hand: states, episodes, and where each count began."""

    def __init__(self, *rules):
        self.index = RuleIndex(list(rules))
        self.states = {}
        self.began = {}
        self.transitions = []

    def feed(self, *blocks):
        for one in blocks:
            for number, reading in enumerate(one.readings):
                key = series_key(reading.device_id, reading.sensor)
                before = dict(self.states.setdefault(key, {}))
                evaluation = Evaluation(ORGANIZATION, self.index, self.states)
                evaluation.feed(one, number, number + 1)
                self.transitions += evaluation.outcome.transitions
                for rule_id, state in self.states[key].items():
                    old = before.get(rule_id, INITIAL)
                    if state.streak + state.good == 1 and old.streak + old.good == 0:
                        self.began[key, rule_id] = one.position
        return self

    def episodes(self):
        cleared = {found.alarm_id: found for found in self.transitions if not isinstance(found, AlarmRaised)}
        for found in self.transitions:
            if isinstance(found, AlarmRaised):
                end = cleared.get(found.alarm_id)
                yield Episode(
                    found.alarm_id,
                    found.rule_id,
                    found.device_id,
                    found.sensor,
                    found.position,
                    end.position if end else None,
                    end.cleared_at if end else None,
                    tuple(found.readings),
                )


def told(episodes, first, floor):
    """What the alarm history answers."""
    return [
        episode
        for episode in episodes
        if episode.position <= floor and (episode.cleared_position is None or episode.cleared_position >= first)
    ]


def restored(run, blocks, first, floor, *, step=None):
    restoration = Restoration(ORGANIZATION, run.index, told(run.episodes(), first, floor), first, floor)
    for one in blocks:
        if first <= one.position <= floor:
            size = step or len(one.readings) or 1
            for start in range(0, len(one.readings), size):
                restoration.feed(one, start, start + size)
    return restoration.states()


def flat(states):
    return {
        (key, rule_id): state for key, series in states.items() for rule_id, state in series.items() if state != INITIAL
    }


readings = st.builds(
    Reading,
    st.sampled_from(["m", "n"]),
    st.sampled_from(["temp", "temp2", "other"]),
    st.sampled_from([70.0, 90.0, 90.0, True, "text"]),
    st.integers(0, 3),
)
contents = st.lists(st.lists(readings, max_size=6), max_size=12)
rules = st.lists(
    st.builds(rule, st.sampled_from(["a", "b"]), raise_after=st.integers(1, 4), clear_after=st.integers(1, 3)),
    unique_by=lambda made: made.id,
    min_size=1,
    max_size=2,
)


@settings(max_examples=500)
@given(rules, contents, st.data())
def test_states_are_those_of_the_undisturbed_run(some_rules, content, data):
    blocks = [DecodedBlock(position, 0, found) for position, found in enumerate(content, 1)]
    floor = data.draw(st.integers(0, len(blocks)), "floor")
    first = data.draw(st.integers(1, floor + 1), "first")
    at_floor = Undisturbed(*some_rules).feed(*blocks[:floor])
    # The history knows as well what was published above the floor.
    whole = Undisturbed(*some_rules).feed(*blocks[: data.draw(st.integers(floor, len(blocks)), "published")])
    found = flat(restored(whole, blocks, first, floor, step=data.draw(st.integers(1, 6), "step")))
    expected = flat(at_floor.states)
    for key in found.keys() | expected.keys():
        state, right = found.get(key, INITIAL), expected.get(key, INITIAL)
        assert state.alarm_id == right.alarm_id
        if right.alarm_id:
            assert state.evidence == right.evidence
        if right.streak + right.good == 0 or at_floor.began[key] >= first:
            assert state == right
        else:
            assert state.streak <= right.streak
            assert state.good <= right.good


@given(rules, contents, st.data())
def test_when_everything_is_kept_all_that_follows_is_the_same(some_rules, content, data):
    blocks = [DecodedBlock(position, 0, found) for position, found in enumerate(content, 1)]
    floor = data.draw(st.integers(0, len(blocks)))
    before = Undisturbed(*some_rules).feed(*blocks[:floor])
    states = restored(before, blocks, 1, floor)
    after = Undisturbed(*some_rules)
    after.states = states
    after.feed(*blocks[floor:])
    before.feed(*blocks[floor:])
    assert after.transitions == [found for found in before.transitions if found.position > floor]


def test_a_streak_that_began_before_the_kept_stream_still_raised_its_alarm():
    """Only the history knows; and good readings after it count from the right place."""
    run = Undisturbed(rule(clear_after=2))
    blocks = [block(1, 90.0), block(2, 91.0), block(3, 92.0), block(4, 70.0)]
    run.feed(*blocks)
    states = restored(run, blocks, 3, 4)
    assert states == run.states
    assert states[KEY]["default"].good == 1
    assert states[KEY]["default"].evidence == ((1, 90.0), (2, 91.0), (3, 92.0))


def test_good_readings_that_began_before_the_kept_stream_still_cleared_the_alarm():
    run = Undisturbed(rule(raise_after=3, clear_after=2))
    blocks = [block(1, 90.0, 90.0, 90.0), block(2, 70.0), block(3, 70.0), block(4, 90.0), block(5, 90.0)]
    run.feed(*blocks)
    states = restored(run, blocks, 3, 5)
    assert states == run.states
    assert states[KEY]["default"].streak == 2


def test_an_alarm_of_which_nothing_is_kept_is_active_with_its_id():
    run = Undisturbed(rule(raise_after=1))
    run.feed(block(1, 90.0))
    (episode,) = run.episodes()
    assert restored(run, [], 500, 700) == {
        KEY: {"default": RuleState(alarm_id=episode.alarm_id, evidence=((1, 90.0),), mark=rule().mark)}
    }


def test_what_the_history_does_not_know_is_dropped():
    """As when a rule has been made stricter or milder since."""
    milder = Undisturbed(rule(raise_after=1))
    states = restored(milder, [block(1, 90.0), block(2, 90.0)], 1, 2)
    assert states == {}


def test_what_only_the_history_knows_is_put_in():
    run = Undisturbed(rule(raise_after=2)).feed(block(1, 90.0, 90.0))
    stricter = Undisturbed(rule(raise_after=10))
    (episode,) = run.episodes()
    restoration = Restoration(ORGANIZATION, stricter.index, [episode], 1, 2)
    restoration.feed(block(1, 90.0, 90.0))
    restoration.feed(block(2, 70.0))
    assert restoration.states()[KEY]["default"].alarm_id == episode.alarm_id


def test_what_happened_above_the_floor_has_not_happened():
    run = Undisturbed(rule(raise_after=1)).feed(block(1, 90.0), block(5, 70.0), block(6, 90.0))
    first, _ = run.episodes()
    (state,) = restored(run, [block(1, 90.0)], 1, 4)[KEY].values()
    assert state.alarm_id == first.alarm_id


def test_an_alarm_of_a_rule_that_is_gone_stays():
    """What happens to it is a matter of management; its state was left alone as well."""
    (episode,) = Undisturbed(rule("old", raise_after=1)).feed(block(1, 90.0)).episodes()
    restoration = Restoration(ORGANIZATION, RuleIndex([rule("new")]), [episode], 1, TOP)
    assert restoration.states()[KEY]["old"].alarm_id == episode.alarm_id


def test_series_at_the_beginning_take_no_memory():
    restoration = Restoration(ORGANIZATION, RuleIndex([rule()]), [], 1, TOP)
    for position in range(1, 50):
        restoration.feed(block(position, 90.0, 70.0, device=f"d{position}"))
        restoration.feed(block(position, "text", sensor="other"))
    assert restoration._states == {}
