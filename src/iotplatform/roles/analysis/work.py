"""What a batch does for each of its partitions: decode, load states, evaluate, commit."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

import msgspec
import structlog

from iotplatform.adapters.nats.headers import CONTROL, TRACEPARENT, BlockHeaders
from iotplatform.adapters.nats.partitions import Partition
from iotplatform.adapters.nats.reader import Delivery, Reader
from iotplatform.adapters.nats.subjects import is_store_only
from iotplatform.adapters.redis.analysis import AnalysisStore, Commit
from iotplatform.adapters.redis.counters import Counters
from iotplatform.domain.alarm import encode_transition
from iotplatform.domain.control import ForgetDevice, UnreadableControl, decode_control
from iotplatform.domain.presence import NEVER, Presence
from iotplatform.domain.reading import UnreadableBlock, decode_block
from iotplatform.errors import Unavailable
from iotplatform.observability.metrics import Metrics
from iotplatform.observability.span import Span, error_of
from iotplatform.roles.analysis.blocks import DecodedBlock, DecodedControl, Piece, wanted_series
from iotplatform.roles.analysis.evaluator import Evaluation, evaluate_in_slices
from iotplatform.roles.analysis.holding import Held, Holdings
from iotplatform.roles.analysis.outcome import Outcome
from iotplatform.roles.analysis.publishing import TransitionPublisher
from iotplatform.roles.analysis.report import report
from iotplatform.roles.analysis.rule_index import RuleIndex
from iotplatform.roles.analysis.rules import Rules
from iotplatform.roles.analysis.states import SeriesStates, unpack_states
from iotplatform.runtime.pace import Pace

log = structlog.get_logger(role="analysis")


class Work(msgspec.Struct):
    """One partition's share of a batch. `wanted` are the series that its rules look at; `states` holds these too."""

    reader: Reader
    partition: Partition
    held: Held
    last: Delivery
    index: RuleIndex
    pieces: list[Piece] = msgspec.field(default_factory=list)
    wanted: set[bytes] = msgspec.field(default_factory=set)
    states: dict[bytes, SeriesStates] = msgspec.field(default_factory=dict)
    outcome: Outcome = msgspec.field(default_factory=Outcome)
    encoded: list[bytes] = msgspec.field(default_factory=list)
    # By position, of blocks that somebody traces.
    spans: dict[int, Span] = msgspec.field(default_factory=dict)


class Workbench:
    def __init__(
        self, store: AnalysisStore, rules: Rules, counters: Counters, metrics: Metrics, holdings: Holdings
    ) -> None:
        self._store = store
        self._rules = rules
        self._counters = counters
        self._metrics = metrics
        self._holdings = holdings
        self.presence: Presence = NEVER
        self._pace = Pace()

    async def begin(self, reader: Reader, partition: Partition, held: Held, last: Delivery) -> Work:
        """Work that moves the position to `last` and changes nothing else."""
        return Work(reader, partition, held, last, await self._rules.index(partition.organization.epoch))

    async def prepare(self, reader: Reader, partition: Partition, held: Held, deliveries: Sequence[Delivery]) -> Work:
        """Work with decoded blocks. Raises whatever decoding raises beside UnreadableBlock."""
        part = await self.begin(reader, partition, held, deliveries[-1])
        for delivery in deliveries:
            piece = self._decode(partition, delivery)
            if piece is None:
                continue
            part.pieces.append(piece)
            if self._metrics.tracer is not None and (trace := delivery.headers.get(TRACEPARENT)) is not None:
                part.spans[delivery.sequence] = self._metrics.tracer.begin("block analysis", trace)
            part.wanted |= wanted_series([piece], part.index)
            if isinstance(piece, DecodedBlock):
                await self._pace.done(len(piece.readings))
            elif isinstance(piece.control, ForgetDevice):
                part.wanted |= set(await self._store.series_of(held.hold, piece.control.device_id))
        if part.index.has_silences:
            part.wanted.update([key for key, _ in held.silences.due(deliveries[-1].stored_at)])
        return part

    def count_unused(self, partition: Partition, readings: int) -> None:
        """Readings that analysis could not use; persistence may well store them."""
        self._metrics.readings_unused.add(readings)
        self._counters.add(partition.organization.epoch, "unused", readings)

    async def load_states(self, work: Sequence[Work]) -> None:
        self._holdings.bound_cache()
        for part in work:
            part.states = part.held.states
        missing = [(part, list(part.wanted - part.states.keys())) for part in work]
        missing = [(part, keys) for part, keys in missing if keys]
        if not missing:
            return
        loaded = await self._store.load([(part.held.hold, keys) for part, keys in missing])
        for (part, keys), packed in zip(missing, loaded, strict=True):
            part.states.update(zip(keys, map(unpack_states, packed), strict=True))
            self._holdings.cached(len(keys))
            await self._pace.done(len(keys))

    async def load(self, held: Held, wanted: Collection[bytes]) -> dict[bytes, SeriesStates]:
        """The cached states of one partition, with these among them."""
        states = held.states
        missing = [key for key in wanted if key not in states]
        if missing:
            (packed,) = await self._store.load([(held.hold, missing)])
            states.update(zip(missing, map(unpack_states, packed), strict=True))
            self._holdings.cached(len(missing))
        return states

    async def evaluate(self, part: Work) -> None:
        evaluation = Evaluation(
            part.partition.organization,
            part.index,
            part.states,
            part.held.silences,
            presence=self.presence,
            position=part.held.position,
        )
        part.outcome = await evaluate_in_slices(evaluation, part.pieces, self._pace)
        if part.spans:
            part.outcome.transitions = [
                msgspec.structs.replace(one, trace=part.spans[one.position].traceparent)
                if one.position in part.spans
                else one
                for one in part.outcome.transitions
            ]
        for transition in part.outcome.transitions:
            part.encoded.append(encode_transition(transition))
            await self._pace.done(1)

    async def commit(self, work: Sequence[Work]) -> list[BaseException | None]:
        """All partitions together; for each None, or why it is not committed."""
        began = time.monotonic()
        commits = [
            Commit(part.held.hold, part.held.position, part.last.sequence, part.outcome.states, part.encoded)
            for part in work
        ]
        try:
            verdicts = await self._store.commit(commits)
        except BaseException as error:
            for span in (span for part in work for span in part.spans.values()):
                span.finish(error_of(error))
            raise
        self._metrics.commit["analysis"].record(time.monotonic() - began)
        for part, failure in zip(work, verdicts, strict=True):
            for span in part.spans.values():
                span.finish(None if failure is None else error_of(failure))
            if failure is None:
                part.held.position = part.last.sequence
                self._metrics.commits.add(1, "analysis")
                report(self._metrics, part.partition.organization.id, part.last.sequence, part.outcome)
        return verdicts

    async def commit_alone(
        self, partition: Partition, held: Held, outcome: Outcome, publisher: TransitionPublisher
    ) -> None:
        """What came of no block: the position stays. Nothing else may be under way with the partition.

        Raises:
            Fenced: somebody else has acquired it.
            Unavailable: a server is away; it may be committed.
        """
        if not outcome.states and not outcome.transitions:
            return
        encoded = [encode_transition(transition) for transition in outcome.transitions]
        commit = Commit(held.hold, held.position, held.position, outcome.states, encoded)
        failure = (await self._store.commit([commit]))[0]
        if failure is not None:
            raise failure
        report(self._metrics, partition.organization.id, held.position, outcome)
        if encoded:
            await publisher.publish(encoded, wait=True)
            await self._store.clear_outbox([held.hold])

    async def keep_counts(self) -> None:
        """At once, since the process may end soon; what can't be kept now is kept later."""
        try:
            await self._counters.flush()
        except Unavailable as error:
            log.debug("counters.waiting", detail=error.detail)

    def _decode(self, partition: Partition, delivery: Delivery) -> Piece | None:
        if is_store_only(delivery.subject):
            return None
        headers = BlockHeaders.decode(delivery.headers)
        try:
            if CONTROL in delivery.headers:
                return DecodedControl(delivery.sequence, delivery.stored_at, decode_control(delivery.data))
            readings = decode_block(delivery.data)
        except (UnreadableBlock, UnreadableControl) as error:
            # Persistence writes the letter: a block is accepted once, so it is dead-lettered once.
            self.count_unused(partition, headers.count if headers else 0)
            log.warning(
                "analysis.unreadable",
                organization=partition.organization.id,
                sequence=delivery.sequence,
                detail=str(error),
            )
            return None
        arrived_at = headers.arrived_at if headers else delivery.stored_at
        return DecodedBlock(delivery.sequence, arrived_at, readings, delivery.stored_at)
