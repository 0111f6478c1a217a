"""`.../rules/{rule}/backtest` and `.../rules/backtest`."""

from __future__ import annotations

import time
from typing import Annotated, Final

import msgspec
from litestar import post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from iotplatform.adapters.postgres.history import Order
from iotplatform.domain.backtest import FoundEpisode
from iotplatform.domain.organization import Organization
from iotplatform.domain.rule import Rule
from iotplatform.domain.timestamps import MICROSECONDS, format_timestamp, parse_timestamp, to_datetime
from iotplatform.errors import Fault, Rejected
from iotplatform.roles.management.access import READ
from iotplatform.roles.management.backtest_program import BacktestTask
from iotplatform.roles.management.context import ManagementContext
from iotplatform.roles.management.fields import Body, Identifier
from iotplatform.roles.management.rule_bodies import RuleAnswer, RuleBody, answer
from iotplatform.roles.management.rules import find_rule

Moment = str | float | int

_UNSAVED: Final = "unsaved"


class BacktestBody(Body, frozen=True):
    """Over the readings of [from, to), from the first one on and up to now where they are left out.

    `order`: `time` is each series by the time of its readings, `stream` the order in which they came.
    """

    since: Moment | None = msgspec.field(default=None, name="from")
    until: Moment | None = msgspec.field(default=None, name="to")
    device_ids: Annotated[tuple[Identifier, ...], msgspec.Meta(max_length=1_000)] = ()
    limit: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 100
    order: Order = "time"


class UnsavedBacktestBody(BacktestBody, frozen=True, kw_only=True):
    """The same, with the rule to try."""

    rule: RuleBody


class EvidenceAnswer(msgspec.Struct, frozen=True):
    timestamp: str
    value: float


class EpisodeAnswer(msgspec.Struct, frozen=True):
    """`readings` raised it; without `cleared_at` it was active at the end."""

    device_id: str
    sensor: str
    raised_at: str
    first_breach_at: str
    cleared_at: str | None
    trigger_value: float
    readings: list[EvidenceAnswer]


class BacktestAnswer(msgspec.Struct, frozen=True):
    """`episodes` are the first of `episode_count` by the time when they were raised, as many as `limit` allows."""

    rule: RuleAnswer
    since: str | None = msgspec.field(name="from")
    until: str = msgspec.field(name="to")
    order: Order
    series: int
    readings: int
    episode_count: int
    episodes: list[EpisodeAnswer]


@post("/organizations/{org:str}/rules/{rule:str}/backtest", opt=READ, status_code=200)
async def backtest_rule(
    org: FromPath[str],
    rule: FromPath[str],
    data: JSONBody[BacktestBody],
    context: NamedDependency[ManagementContext],
) -> BacktestAnswer:
    """The episodes that the rule would have raised, had it been there."""
    since, until = _times(data)
    organization = await context.organization(org)
    found = await find_rule(context, organization, rule)
    return await _backtest(context, organization, found.rule, data, since, until)


@post("/organizations/{org:str}/rules/backtest", opt=READ, status_code=200)
async def backtest_unsaved_rule(
    org: FromPath[str], data: JSONBody[UnsavedBacktestBody], context: NamedDependency[ManagementContext]
) -> BacktestAnswer:
    """The same of a rule that is saved nowhere."""
    since, until = _times(data)
    faults = data.rule.faults()
    if faults:
        shown = tuple(Fault(fault.detail, field=f"rule.{fault.field}") for fault in faults)
        raise Rejected("invalid", "the rule is not valid", faults=shown)
    organization = await context.organization(org)
    rule = data.rule.meant(organization.id, data.rule.id or _UNSAVED)
    return await _backtest(context, organization, rule, data, since, until)


async def _backtest(
    context: ManagementContext,
    organization: Organization,
    rule: Rule,
    wanted: BacktestBody,
    since: int | None,
    until: int | None,
) -> BacktestAnswer:
    now = time.time_ns() // 1_000
    # What was sent a moment ago by a clock that is ahead belongs to what there is now.
    end = now + 86_400 * MICROSECONDS if until is None else until
    result = await context.backtests.run(
        BacktestTask(
            epoch=organization.epoch,
            rule=rule,
            device_ids=tuple(dict.fromkeys(wanted.device_ids)),
            since=since or 0,
            until=end,
            ends_at=min(now, end),
            order=wanted.order,
            limit=wanted.limit,
        )
    )
    return BacktestAnswer(
        answer(rule, None),
        None if since is None else format_timestamp(since),
        format_timestamp(min(now, end) if until is None else until),
        wanted.order,
        result.series,
        result.readings,
        result.episode_count,
        [_episode(found) for found in result.episodes],
    )


def _times(body: BacktestBody) -> tuple[int | None, int | None]:
    faults = []
    times: dict[str, int | None] = {"from": None, "to": None}
    for name, moment in (("from", body.since), ("to", body.until)):
        if moment is None:
            continue
        try:
            at = parse_timestamp(moment)
            to_datetime(at)
            times[name] = at
        except (ValueError, OverflowError) as error:
            faults.append(Fault("is no time" if isinstance(error, OverflowError) else str(error), field=name))
    since, until = times["from"], times["to"]
    if not faults and since is not None and until is not None and since >= until:
        faults.append(Fault("must be before 'to'", field="from"))
    if faults:
        raise Rejected("invalid", "the body is not valid", faults=tuple(faults))
    return since, until


def _episode(found: FoundEpisode) -> EpisodeAnswer:
    return EpisodeAnswer(
        found.device_id,
        found.sensor,
        format_timestamp(found.raised_at),
        format_timestamp(found.first_breach_at),
        None if found.cleared_at is None else format_timestamp(found.cleared_at),
        found.trigger_value,
        [EvidenceAnswer(format_timestamp(at), value) for at, value in found.readings],
    )
