"""Rules of every kind and readings that make something happen, for hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from iotplatform.domain.conditions import MOfN, NoData, Rate
from iotplatform.domain.rule import Rule, Threshold, rule_faults
from tests.support.alarm_model import Seen

S = 1_000_000
SIMPLE = [">", ">=", "<", "<=", "==", "!="]
BOUND = st.sampled_from([79.0, 80.0, 81.0])

# Few different values and steps of time, so that runs, gaps and late readings are common.
values = st.sampled_from([78.0, 79.0, 80.0, 81.0, 82.0, -80.0, 80.00000000001])
times = st.sampled_from([0, 1, 1, 1, 2, 3, 7, -1, -4])
waits = st.sampled_from([0, 1, 1, 2, 5])


@st.composite
def readings(draw, size=40):
    at, arrived, found = 1_000, 1_000, []
    for value, step, wait in draw(st.lists(st.tuples(values, times, waits), max_size=size)):
        at, arrived = at + step, arrived + wait
        found.append(Seen(value, at * S, arrived * S))
    return found


def comparisons():
    return st.one_of(
        st.fixed_dictionaries({"operator": st.sampled_from(SIMPLE), "value": BOUND}),
        st.fixed_dictionaries(
            {
                "operator": st.sampled_from(["inside", "outside"]),
                "low": st.just(79.0),
                "high": st.sampled_from([79.0, 81.0]),
            }
        ),
    )


@st.composite
def hysteresis(draw):
    operator = draw(st.sampled_from([">", ">=", "<", "<="]))
    further = draw(st.sampled_from([0.0, 1.0, 2.0]))
    return Threshold(operator, 80.0, clear_value=80.0 - further if operator[0] == ">" else 80.0 + further)


conditions = st.one_of(
    comparisons().map(lambda made: Threshold(**made)),
    hysteresis(),
    st.builds(Rate, st.sampled_from(SIMPLE), st.sampled_from([-1.0, 0.0, 0.5, 1.0])),
    st.tuples(st.integers(1, 4), st.integers(0, 4), comparisons()).map(
        lambda drawn: MOfN(drawn[0], sum(drawn[:2]), **drawn[2])
    ),
    st.sampled_from([1.0, 2.0, 5.0]).map(NoData),
)


@st.composite
def rules(draw):
    condition = draw(conditions)
    by_itself = isinstance(condition, MOfN | NoData)
    max_gap_s = None if isinstance(condition, NoData) else draw(st.sampled_from([None, None, 1.0, 2.5]))
    made = Rule(
        "r1",
        "orgA",
        "R",
        "*",
        condition,
        raise_after=1 if by_itself else draw(st.integers(1, 4)),
        clear_after=draw(st.integers(1, 3)),
        max_gap_s=max_gap_s,
        for_s=draw(st.sampled_from([None, 1.0, 3.0])) if max_gap_s and not by_itself else None,
        late="evaluate" if isinstance(condition, NoData) else draw(st.sampled_from(["evaluate", "ignore"])),
        latched=draw(st.sampled_from([False, False, False, True])),
    )
    assert rule_faults(made) == []
    return made
