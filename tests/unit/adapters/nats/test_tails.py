"""What followers of a stream share: whoever asks gets exactly what the stream has beyond where he is."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from iotplatform.adapters.nats import tails
from iotplatform.adapters.nats.tails import BATCH_MESSAGES, SHARED_MESSAGES, Stored, Window


class Stream:
    def __init__(self) -> None:
        self.messages: list[Stored] = []
        self.reads = 0

    def add(self, count: int, skipped: int = 0) -> None:
        first = (self.messages[-1].sequence if self.messages else 0) + 1 + skipped
        self.messages += [Stored(first + number, 0, {}, b"") for number in range(count)]

    async def fetch(self, after: int) -> list[Stored]:
        self.reads += 1
        found = [message for message in self.messages if message.sequence > after][:BATCH_MESSAGES]
        await asyncio.sleep(0)
        return found


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(1, 100), st.integers(0, 2)),
            st.tuples(st.just("read"), st.integers(0, 3), st.just(0)),
            st.tuples(st.just("join"), st.integers(0, 3), st.integers(0, 300)),
            st.tuples(st.just("forget"), st.just(0), st.just(0)),
        ),
        max_size=40,
    )
)
def test_every_follower_is_told_everything_once_and_in_order(steps: list[tuple[str, int, int]]) -> None:
    async def run() -> None:
        window, stream = Window[Stored](), Stream()
        begun, told = [0] * 4, [[] for _ in range(4)]  # type: ignore[var-annotated]

        async def read(who: int) -> bool:
            found = await window.read(told[who][-1] if told[who] else begun[who], stream.fetch)
            told[who] += [message.sequence for message in found]
            return bool(found)

        for step, number, more in steps:
            if step == "add":
                stream.add(number, more)
            elif step == "read":
                await asyncio.gather(read(number), read((number + 1) % 4))
            elif step == "join":
                begun[number], told[number] = min(more, stream.messages[-1].sequence if stream.messages else 0), []
            else:
                window._read_at = 0.0
                window.forget_old()
        window._nothing_at = 0.0
        for who in range(4):
            while await read(who):
                window._nothing_at = 0.0
            assert told[who] == [one.sequence for one in stream.messages if one.sequence > begun[who]]
        assert len(window._messages) <= SHARED_MESSAGES

    asyncio.run(run())


async def test_many_that_are_as_far_cost_one_read() -> None:
    window, stream = Window[Stored](), Stream()
    stream.add(50)
    found = await asyncio.gather(*(window.read(20, stream.fetch) for _ in range(100)))
    assert all([one.sequence for one in some] == list(range(21, 51)) for some in found)
    assert stream.reads == 1
    # And so does hearing that there is no more, for a moment.
    assert all(not some for some in await asyncio.gather(*(window.read(50, stream.fetch) for _ in range(100))))
    assert stream.reads == 2
    await asyncio.sleep(tails.NOTHING_FOR_S)
    stream.add(1)
    assert [one.sequence for one in await window.read(50, stream.fetch)] == [51]


async def test_one_that_gives_up_leaves_nobody_without() -> None:
    window, stream = Window[Stored](), Stream()
    stream.add(5)
    loop = asyncio.get_running_loop()
    first, second = (loop.create_task(window.read(0, stream.fetch)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert len(await second) == 5
