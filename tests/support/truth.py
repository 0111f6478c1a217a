"""What must be true after any fault, computed from the streams themselves and from nothing that a role has written."""

from __future__ import annotations

import collections
import json
from collections.abc import Callable, Iterable
from typing import Any

import asyncpg
import msgspec
import nats
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.api import ConsumerConfig

from iotplatform.adapters.postgres.routing import delivery_id
from iotplatform.domain.alarm import alarm_id
from iotplatform.domain.reading import decode_block
from tests.support.load import EPOCH_S, LIMIT, Sent
from tests.support.mail_sink import MailSink
from tests.support.platform import Platform, eventually
from tests.support.retrying_load import RetryingLoad

RULE = "default"
SENSOR = "temp"
SHOWN = 10


class StoredReading(msgspec.Struct, frozen=True):
    """A reading in its place: the sequence of its block, and its number in there."""

    organization: str
    epoch: int
    device: str
    position: int
    index: int
    number: int
    value: float

    @property
    def sent(self) -> Sent:
        return self.organization, self.device, self.number


class Episode(msgspec.Struct):
    """An alarm that there must be; `cleared` is the number of the reading that cleared it."""

    alarm: str
    organization: str
    device: str
    raised: int
    cleared: int | None = None

    @property
    def transitions(self) -> list[str]:
        return ["raised"] if self.cleared is None else ["raised", "cleared"]


async def read_streams(nats_url: str, organizations: Iterable[str]) -> list[StoredReading]:
    """Every reading of these organizations, in stream order; nothing must have been trimmed."""
    found: list[StoredReading] = []
    client = await nats.connect(servers=_servers_of(nats_url))
    try:
        stream = client.jetstream(timeout=30)
        for organization in organizations:
            last = (await stream.stream_info(f"ORG_{organization}")).state.last_seq
            subscription = await stream.subscribe(
                f"readings.{organization}.>",
                stream=f"ORG_{organization}",
                ordered_consumer=True,
                pending_msgs_limit=0,
                pending_bytes_limit=0,
                config=ConsumerConfig(num_replicas=1, mem_storage=True),
            )
            position = 0
            while position < last:
                message = await subscription.next_msg(timeout=30)
                position = message.metadata.sequence.stream
                epoch = int(message.subject.split(".")[2])
                for index, reading in enumerate(decode_block(message.data)):
                    number = reading.at // 1_000_000 - EPOCH_S
                    value = float(reading.value)
                    found.append(StoredReading(organization, epoch, reading.device_id, position, index, number, value))
            await subscription.unsubscribe()
    except NatsTimeoutError as error:
        raise AssertionError(f"the streams can't be read to their end: {error}") from error
    finally:
        await client.close()
    return found


def episodes_in(stream: Iterable[StoredReading]) -> list[Episode]:
    """Independently: over the limit three times in a row in stream order raises; one good reading clears."""
    found: list[Episode] = []
    active: dict[tuple[str, str], Episode] = {}
    streaks: collections.Counter[tuple[str, str]] = collections.Counter()
    for reading in stream:
        series = (reading.organization, reading.device)
        breach = reading.value > LIMIT
        if series in active:
            if not breach:
                active.pop(series).cleared = reading.number
                streaks[series] = 0
            continue
        streaks[series] = streaks[series] + 1 if breach else 0
        if streaks[series] == 3:
            place = (reading.device, SENSOR, reading.position, reading.index)
            identity = alarm_id(reading.organization, reading.epoch, RULE, *place)
            active[series] = Episode(identity, *series, reading.number)
            found.append(active[series])
    return found


class Findings(msgspec.Struct):
    """`violations` is empty when every promise was kept.

    `readings_lost` were accepted and are not in a stream; those that only a store lacks are a violation.
    """

    violations: list[str] = msgspec.field(default_factory=list)
    readings_stored: int = 0
    readings_doubled: int = 0
    readings_lost: int = 0
    alarms: int = 0
    mails: int = 0
    mail_doubles: int = 0

    def expect(self, holds: bool, what: str) -> None:
        if not holds:
            self.violations.append(what)

    def expect_same(self, found: Iterable[Any], expected: Iterable[Any], what: str) -> None:
        ours, theirs = collections.Counter(found), collections.Counter(expected)
        self.expect(not theirs - ours, f"{what} missing: {_some(theirs - ours)}")
        self.expect(not ours - theirs, f"{what} that must not be: {_some(ours - theirs)}")


async def examine(
    platform: Platform, load: RetryingLoad, sink: MailSink, channel_id: str, *, within_s: float
) -> Findings:
    """Wait until everything is handled, and compare it with what the streams say must have come of it.

    `channel_id` is the channel of each organization whose mails go to `sink`. The rest that is needed comes from the
    database, the ledger and the clients' own notes.
    """
    findings = Findings()
    for wrong in load.wrong[:SHOWN]:
        findings.violations.append(f"answered wrongly: {wrong}")
    ledgers = await _settled_ledgers(platform, load, findings, within_s)
    stream = await read_streams(platform.urls["nats"], load.organizations)
    _compare_readings(load, stream, findings)
    await _compare_rows(platform, stream, ledgers, findings)
    expected = episodes_in(stream)
    await _compare_alarms(platform, expected, findings, within_s)
    await _compare_mails(platform, expected, sink, channel_id, findings, within_s)
    return findings


async def _settled_ledgers(
    platform: Platform, load: RetryingLoad, findings: Findings, within_s: float
) -> dict[str, dict[str, Any]]:
    ledgers: dict[str, dict[str, Any]] = {}

    async def settled() -> bool:
        async with platform.client() as client:
            for organization in load.organizations:
                answer = await client.get(f"/organizations/{organization}/ledger")
                if answer.status_code != 200:
                    return False
                ledgers[organization] = answer.json()
        return all(entry["balanced"] and entry["in_flight"] == 0 for entry in ledgers.values())

    await _wait(settled, within_s, findings, lambda: f"the ledger does not balance: {json.dumps(ledgers)}")
    return ledgers


def _compare_readings(load: RetryingLoad, stream: list[StoredReading], findings: Findings) -> None:
    counts = collections.Counter(reading.sent for reading in stream)
    lost = load.accepted - counts.keys()
    findings.readings_stored = len(stream)
    findings.readings_lost = len(lost)
    findings.readings_doubled = sum(count - 1 for count in counts.values())
    findings.expect(not lost, f"accepted, and not in the stream: {_some(lost)}")
    strangers = counts.keys() - load.accepted - load.unknown
    findings.expect(not strangers, f"in the stream, and nobody can have put it there: {_some(strangers)}")
    for sent, count in counts.items():
        allowed = (1 if sent in load.accepted else 0) + (load.uncertain[sent] if not load.keys else 0)
        if count > max(1, allowed):
            findings.violations.append(f"{sent} is there {count} times, and {allowed} would be right")


async def _compare_rows(
    platform: Platform, stream: list[StoredReading], ledgers: dict[str, dict[str, Any]], findings: Findings
) -> None:
    rows = await _fetch(platform, _ROWS)
    newest = {reading.sent: reading.value for reading in stream}
    found = {(row["organization"], row["device_id"], row["number"]): row["value"] for row in rows}
    findings.expect_same(found.items(), newest.items(), "rows")
    for organization, ledger in ledgers.items():
        there = sum(reading.organization == organization for reading in stream)
        counted = (ledger["accepted"], ledger["stored"], ledger["dead_lettered"])
        findings.expect(
            counted == (there, there, 0), f"{organization}: the ledger says {counted}, its stream holds {there}"
        )


async def _compare_alarms(platform: Platform, expected: list[Episode], findings: Findings, within_s: float) -> None:
    wanted = [(each.alarm, each.organization, each.device, each.raised, each.cleared) for each in expected]
    found: list[tuple[Any, ...]] = []

    async def equal() -> bool:
        found[:] = [
            (str(row["id"]), row["organization"], row["device_id"], row["raised"], row["cleared"])
            for row in await _fetch(platform, _ALARMS)
        ]
        return sorted(found, key=str) == sorted(wanted, key=str)

    findings.alarms = len(expected)
    # Not `expect` while waiting: the last ones may still be on their way.
    if not await _wait(equal, within_s):
        findings.expect_same(found, wanted, "alarms")


async def _compare_mails(
    platform: Platform, expected: list[Episode], sink: MailSink, channel_id: str, findings: Findings, within_s: float
) -> None:
    wanted = {
        f"<{delivery_id(each.alarm, transition, channel_id)}@iotplatform>"
        for each in expected
        for transition in each.transitions
    }

    async def all_there() -> bool:
        return not wanted - sink.mails.keys()

    await _wait(all_there, within_s)
    findings.mails = len(sink.mails)
    findings.mail_doubles = sink.doubles()
    findings.expect_same(sink.mails.keys(), wanted, "mails")

    async def all_sent() -> bool:
        states = await _fetch(platform, _DELIVERIES)
        return all(row["state"] == "sent" for row in states)

    states: list[asyncpg.Record] = []
    if not await _wait(all_sent, within_s):
        states = await _fetch(platform, _DELIVERIES)
    findings.expect(not states, f"deliveries that are not sent: {_some(map(dict, states))}")


async def _wait(
    check: Callable[[], Any], within_s: float, findings: Findings | None = None, what: Callable[[], str] = str
) -> bool:
    try:
        await eventually(check, within_s=within_s)
    except TimeoutError:
        if findings is not None:
            findings.violations.append(what())
        return False
    return True


async def _fetch(platform: Platform, query: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(platform.urls["postgres"])
    try:
        return await connection.fetch(query)
    finally:
        await connection.close()


def _servers_of(url: str) -> list[str]:
    scheme, _, rest = url.partition("://")
    credentials, at, hosts = rest.rpartition("@")
    return [f"{scheme}://{credentials}{at}{host}" for host in hosts.split(",")]


def _some(things: Iterable[Any]) -> str:
    every = list(things)
    return f"{len(every)}, such as {every[:SHOWN]}" if len(every) > SHOWN else str(every)


_ROWS = f"""
SELECT o.id AS organization, s.device_id, r.value, extract(epoch FROM r.at)::bigint - {EPOCH_S} AS number
FROM readings r JOIN series s ON s.id = r.series_id JOIN organizations o ON o.epoch = s.epoch
"""
_ALARMS = f"""
SELECT a.id, o.id AS organization, a.device_id, extract(epoch FROM a.raised_at)::bigint - {EPOCH_S} AS raised,
    extract(epoch FROM a.cleared_at)::bigint - {EPOCH_S} AS cleared
FROM alarms a JOIN organizations o ON o.epoch = a.epoch
"""
_DELIVERIES = "SELECT id, channel_id, transition, state FROM deliveries WHERE state <> 'sent' OR state IS NULL"
