"""Spans: what is traced, what is left when something fails, and what is told of it."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from iotplatform.errors import Unavailable
from iotplatform.observability.span import error_of
from iotplatform.observability.tracing import MOST_PER_SECOND, Tracer
from iotplatform.roles.persistence.commit_traces import CommitTraces, committing

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
AWAY = Unavailable("the database is not reachable")


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def make(exporter):
    made = []

    def tracer(ratio=0.0):
        made.append(Tracer(exporter, ratio, now=lambda: 1.0))
        return made[-1]

    yield tracer
    for one in made:
        one.close()


def ended(tracer, exporter):
    tracer.close()
    return exporter.get_finished_spans()


def test_one_that_was_picked_is_traced_and_its_pick_serves_no_other(make):
    tracer = make(1.0)
    assert tracer.picks()
    tracer._ratio = 0.0
    # Neither a message nor a request by another door was picked, nor one that comes with a context.
    assert tracer.begin_request("mqtt message", None) is None
    assert tracer.begin_request("ingest request", GIVEN[:-1] + "0", owed=True) is None
    assert tracer.begin_request("ingest request", None, owed=True) is not None
    assert tracer.begin_request("ingest request", None, owed=True) is None


def test_however_many_are_asked_for_there_are_not_more_than_a_bound_in_a_second(make):
    tracer = make(1.0)
    given = [tracer.begin_request("mqtt message", None) for _ in range(MOST_PER_SECOND + 50)]
    assert sum(span is not None for span in given) == MOST_PER_SECOND


def test_a_span_can_begin_when_its_message_arrived_and_ends_once(make, exporter):
    tracer = make()
    span = tracer.begin_request("mqtt message", GIVEN, since=5_000_000, qos="1")
    span.finish("intake_full")
    span.finish()
    (found,) = ended(tracer, exporter)
    assert found.start_time == 5_000_000_000
    assert (found.status.status_code, found.status.description) == (StatusCode.ERROR, "intake_full")


def test_each_failure_leaves_its_spans_and_an_outage_only_its_first(make, exporter):
    tracer = make()
    traces = CommitTraces()
    traces.of.append(GIVEN)
    for failure in (AWAY, AWAY, ValueError("what the driver said"), None):
        with nullcontext() if failure is None else pytest.raises(type(failure)), committing(tracer, [traces]):
            if failure is not None:
                raise failure
    assert traces.finish() == [GIVEN[3:35]]
    found = [(span.status.description, span.attributes["again"]) for span in ended(tracer, exporter)]
    assert found == [("Unavailable: the database is not reachable", False), ("ValueError", True), (None, True)]


def test_nothing_is_begun_without_a_tracer():
    traces = CommitTraces()
    traces.of.append(GIVEN)
    with committing(None, [traces]):
        pass
    assert traces.finish() == []


def test_what_a_span_says_of_an_error_has_no_secrets():
    assert error_of(ValueError("postgresql://me:hidden@host")) == "ValueError"
    assert error_of(Unavailable("redis://me:hidden@host is away")) == "Unavailable: redis://me:***@host is away"
