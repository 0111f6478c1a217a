from __future__ import annotations

import asyncio
import base64

import pytest

from iotplatform.adapters.nats.reader import Delivery, Reader
from iotplatform.adapters.postgres.outgoing import OutgoingMoved, UnstorableTransition
from iotplatform.domain.alarm import encode_transition
from iotplatform.errors import Unavailable
from iotplatform.observability.metrics import Metrics
from iotplatform.roles.notification.recorder import Recorder
from iotplatform.runtime.tasks import Tasks


class Readers:
    """Hands out batches that a test puts in, and writes down what becomes of them."""

    def __init__(self):
        self.batches = asyncio.Queue()
        self.released = asyncio.Queue()
        self.acknowledged = []
        self.resets = []

    async def take(self):
        return await self.batches.get()

    async def acknowledge(self, reader, delivery):
        self.acknowledged.append(delivery.sequence)

    async def release(self, batch):
        self.released.put_nowait(batch)

    def reset(self, reader, reason):
        self.resets.append(reason)


class Outgoing:
    def __init__(self):
        self.at = 0
        self.transitions = []
        self.errors = []

    async def record(self, before, after, transitions):
        if self.errors:
            raise self.errors.pop(0)
        if any("\x00" in transition.rule_name for transition in transitions):
            raise UnstorableTransition("unsupported Unicode escape sequence")
        if before != self.at:
            raise OutgoingMoved("moved")
        self.at = after
        self.transitions += transitions
        return len(transitions)


class DeadLetters:
    def __init__(self):
        self.letters = []
        self.errors = []

    async def put(self, organization_id, epoch, role, letter):
        if self.errors:
            raise self.errors.pop(0)
        self.letters.append((organization_id, epoch, role, letter))


class Stage:
    def __init__(self):
        self.readers = Readers()
        self.outgoing = Outgoing()
        self.dead_letters = DeadLetters()
        self.metrics = Metrics()
        self.woken = 0
        self.reader = Reader("NOTIFICATIONS", "notification", self.position)

    async def position(self):
        return self.outgoing.at

    def fenced(self, reader):
        self.readers.reset(reader, "fenced")

    def wake(self):
        self.woken += 1

    async def handle(self, *deliveries):
        self.readers.batches.put_nowait({self.reader: list(deliveries)})
        async with asyncio.timeout(5):
            await self.readers.released.get()


@pytest.fixture
async def stage():
    made = Stage()
    recorder = Recorder(made.readers, made.outgoing, made.dead_letters, made.metrics, made.wake, made.fenced)
    tasks = Tasks("test")
    tasks.start(recorder.run(), "recorder")
    yield made
    await tasks.stop()


def message(sequence, data, subject="notifications.orgA.5.machine-123"):
    return Delivery(sequence, 1_000 + sequence, subject, {}, data, f"reply.{sequence}")


async def test_transitions_are_recorded_then_acknowledged(stage, raised, cleared):
    await stage.handle(message(1, encode_transition(raised())), message(4, encode_transition(cleared())))
    assert [type(transition).__name__ for transition in stage.outgoing.transitions] == ["AlarmRaised", "AlarmCleared"]
    assert stage.outgoing.at == stage.reader.position == 4
    assert stage.readers.acknowledged == [4]
    assert stage.woken == 1
    assert stage.metrics.commits.values == {("notification",): 1}


@pytest.mark.parametrize(
    ("error", "reason"),
    [(Unavailable("the database is not reachable"), "the database"), (OutgoingMoved("moved"), "fenced")],
)
async def test_what_could_not_be_committed_starts_over(stage, raised, error, reason):
    stage.outgoing.errors = [error]
    await stage.handle(message(1, encode_transition(raised())))
    assert stage.readers.resets[0].startswith(reason)
    assert stage.readers.acknowledged == []
    assert stage.reader.position == 0
    await stage.handle(message(1, encode_transition(raised())))
    assert stage.readers.acknowledged == [1]


async def test_what_can_not_be_read_becomes_a_dead_letter(stage, raised):
    await stage.handle(message(1, b"\xff{"), message(2, encode_transition(raised())))
    ((organization, epoch, role, letter),) = stage.dead_letters.letters
    assert (organization, epoch, role) == ("orgA", 5, "notification")
    assert (letter.id, letter.role, letter.reason, letter.device_id) == (
        "notification.1",
        "notification",
        "undecodable",
        "machine-123",
    )
    assert (letter.readings, letter.received_at) == (0, 1_001)
    assert base64.b64decode(letter.payload) == b"\xff{"
    assert len(stage.outgoing.transitions) == 1
    assert stage.outgoing.at == 2


async def test_a_transition_on_the_subject_of_another_organization(stage, raised):
    await stage.handle(message(1, encode_transition(raised()), "notifications.orgB.6.machine-123"))
    assert stage.outgoing.transitions == []
    assert stage.dead_letters.letters[0][:2] == ("orgB", 6)


async def test_an_alarm_id_that_is_none(stage, raised):
    await stage.handle(message(1, encode_transition(raised(alarm_id="42"))))
    assert stage.dead_letters.letters[0][3].detail == "the alarm's id is no UUID"


@pytest.mark.parametrize("subject", ["notifications.orgA", "notifications.orgA.x.machine-1", "other.orgA.5.machine-1"])
async def test_a_subject_of_nobody_is_passed_over(stage, raised, subject):
    await stage.handle(message(1, encode_transition(raised()), subject))
    assert stage.dead_letters.letters == []
    assert stage.outgoing.at == 1


async def test_the_position_waits_for_the_letter(stage):
    stage.dead_letters.errors = [Unavailable("JetStream is away")]
    await stage.handle(message(1, b"?"))
    assert stage.outgoing.at == 0
    assert stage.readers.resets == ["JetStream is away"]
    await stage.handle(message(1, b"?"))
    assert len(stage.dead_letters.letters) == 1
    assert stage.outgoing.at == 1


async def test_what_can_not_be_stored_does_not_hold_up_the_rest(stage, raised):
    await stage.handle(
        message(1, encode_transition(raised())),
        message(2, encode_transition(raised(rule_name="nul\x00"))),
        message(3, encode_transition(raised())),
    )
    assert len(stage.outgoing.transitions) == 2
    assert stage.outgoing.at == 3
    ((_, _, _, letter),) = stage.dead_letters.letters
    assert (letter.id, letter.reason) == ("notification.2", "unstorable")
    assert stage.readers.acknowledged == [3]
