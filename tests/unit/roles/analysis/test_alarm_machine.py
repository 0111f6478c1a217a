"""A series through days of everything that can happen to it, beside the model that only looks back over a list."""

from __future__ import annotations

from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from iotplatform.domain.alarm import AlarmRaised, transition_id
from iotplatform.domain.control import ClearAlarm, ForgetDevice
from iotplatform.domain.organization import Organization
from iotplatform.domain.reading import Reading
from iotplatform.roles.analysis.blocks import DecodedBlock, DecodedControl
from iotplatform.roles.analysis.evaluator import Evaluation
from iotplatform.roles.analysis.outdated import why_outdated
from iotplatform.roles.analysis.rule_index import RuleIndex
from iotplatform.roles.analysis.silences import Silences
from iotplatform.roles.analysis.states import pack_states, series_key, unpack_states
from iotplatform.roles.analysis.telling import Place, cleared, names_of
from tests.support.alarm_model import Hand, Seen, model
from tests.support.alarm_strategies import S, rules, times, values, waits

ORGANIZATION = Organization("orgA", 7, "A Corp", 1, 0)
KEY = series_key("m", "temp")


class Series(RuleBasedStateMachine):
    """What the role keeps; beside it the events since its counts last began anew, and the story of before."""

    @initialize(made=rules())
    def begin(self, made):
        self.index = RuleIndex([made])
        self.states, self.silences = {KEY: {}}, Silences()
        self.position = self.at = self.arrived = 1_000
        self.events, self.past, self.told = [], [], []

    @property
    def made(self):
        return self.index.rules[0]

    @property
    def alarm(self):
        state = self.states[KEY].get("r1")
        return state.alarm_id if state else None

    @rule(value=values, step=times, wait=waits)
    def read(self, value, step, wait):
        self.at, self.arrived = self.at + step, self.arrived + wait
        self.events.append(Seen(value, self.at * S, self.arrived * S))
        reading = Reading("m", "temp", value, self.at * S)
        self._evaluate(lambda it, position: it.feed(DecodedBlock(position, 0, [reading], self.arrived * S)))

    @rule()
    def clear_by_hand(self):
        self.events.append(Hand())
        hand = ClearAlarm(self.alarm or "none", "r1", "m", "temp", "ann", 0)
        self._evaluate(lambda it, position: it.obey(DecodedControl(position, 0, hand)))

    @rule()
    def restart(self):
        """What is stored comes back, and a scan finds what can fall silent."""
        self.states, self.silences = {KEY: unpack_states(pack_states(self.states[KEY]))}, Silences()
        watch, state = self.index.watches["r1"], self.states[KEY].get("r1")
        if watch.after_us and state is not None and state.seen_at:
            self.silences.put(KEY, "r1", state.seen_at + watch.after_us)

    @rule(made=rules())
    def change_the_rule(self, made):
        if made.mark == self.made.mark:
            return  # counts go on by other numbers, which no list of events can tell
        self._begin_anew("rule_changed")
        self.index = RuleIndex([made], before=self.index)
        state = self.states[KEY].get("r1")
        if state is not None:
            reason = why_outdated(self.index, "m", "temp", "r1", state)
            place = Place("m", "temp", self.position, 0)
            told = cleared(ORGANIZATION, names_of(made), self.alarm, place, at=0, reason=reason) if self.alarm else None
            self._evaluate(lambda it, _: it.drop(KEY, "r1", told))

    @rule()
    def forget_the_device(self):
        self._begin_anew("device_deleted")
        forget = ForgetDevice("m", "ann", 0)
        self._evaluate(lambda it, position: it.obey(DecodedControl(position, 0, forget)))

    @invariant()
    def the_model_tells_the_same_story(self):
        told = ["raised" if isinstance(one, AlarmRaised) else one.reason or "cleared" for one in self.told]
        assert told == [*self.past, *self._modelled()]

    @invariant()
    def one_alarm_at_most_and_each_by_its_own_id(self):
        raised = [one.alarm_id for one in self.told if isinstance(one, AlarmRaised)]
        ended = [one.alarm_id for one in self.told if not isinstance(one, AlarmRaised)]
        assert len({transition_id(one) for one in self.told}) == len(self.told)
        assert raised == ([*ended, self.alarm] if self.alarm else ended)

    def _evaluate(self, step):
        evaluation = Evaluation(ORGANIZATION, self.index, self.states, self.silences, position=self.position)
        self.position += 1
        step(evaluation, self.position)
        evaluation.pack()
        self.told += evaluation.outcome.transitions

    def _modelled(self):
        words = {"silent": "raised", "by hand": "manual"}
        return [words.get(step, step) for step, _ in model(self.made, self.events)]

    def _begin_anew(self, reason):
        self.past += [*self._modelled(), *([reason] if self.alarm else [])]
        self.events = []


TestSeries = Series.TestCase
TestSeries.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
