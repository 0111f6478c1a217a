"""The spans of a commit: one for each block that somebody traces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from iotplatform.errors import Unavailable
from iotplatform.observability.span import Span, error_of

if TYPE_CHECKING:
    from iotplatform.observability.tracing import Tracer


class CommitTraces:
    """`of` are the contexts of the blocks. What fails leaves spans with the error, and trying again begins new ones.

    An outage that is waited out fails at every try: its first try leaves spans, and those of the second last until it
    is over.
    """

    __slots__ = ("_spans", "_waits", "of")

    def __init__(self) -> None:
        self.of: list[str] = []
        self._spans: list[Span] = []
        self._waits = False

    def begin(self, tracer: Tracer | None) -> None:
        """Unless they have begun."""
        if tracer is not None and self.of and not self._spans:
            self._spans = [tracer.begin("block commit", trace, again=self._waits) for trace in self.of]

    def fail(self, error: BaseException) -> None:
        if self._waits and isinstance(error, Unavailable):
            return
        self._waits = True
        for span in self._spans:
            span.finish(error_of(error))
        self._spans = []

    def finish(self) -> list[str]:
        """It is committed; gives the ids of their traces."""
        for span in self._spans:
            span.finish()
        return [span.trace_id for span in self._spans]


@contextmanager
def committing(tracer: Tracer | None, several: Sequence[CommitTraces]) -> Iterator[None]:
    """While they are committed together; it is told to each of them that this has failed."""
    for one in several:
        one.begin(tracer)
    try:
        yield
    except BaseException as error:
        for one in several:
            one.fail(error)
        raise
