"""Who only looks sees what analysis has committed, in the shape in which analysis packs it."""

from __future__ import annotations

from iotplatform.adapters.redis.analysis import AnalysisStore, Commit
from iotplatform.adapters.redis.analysis_view import AnalysisView
from iotplatform.domain.evaluation import RuleState
from iotplatform.roles.analysis.states import pack_states, series_key


async def test_what_analysis_committed_is_seen(redis, epoch):
    store, view = AnalysisStore(redis), AnalysisView(redis)
    assert await view.states(epoch, 3, "oven", ["temp1"]) == (None, [{}])

    hold = await store.acquire(epoch, 3, counted=True)
    state = {"hot": RuleState(2, 0, None, ((7, 81.5), (8, 82.0)), 42, (8, 82.0), (), 9)}
    states = {series_key("oven", "temp1"): pack_states(state)}
    assert (await store.commit([Commit(hold, 0, 5, states, ())]))[0] is None

    assert await view.states(epoch, 3, "oven", ["temp2", "temp1"]) == (5, [{}, state])
    assert await view.states(epoch, 3, "kiln", ["temp1"]) == (5, [{}])
    assert await view.states(epoch, 3, "oven", []) == (5, [])
