"""How many series a process has does not follow the number of organizations."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from iotplatform.adapters.nats.jetstream_state import JetStreamState, StreamState
from iotplatform.adapters.nats.reader import Reader
from iotplatform.adapters.nats.readers import Readers
from iotplatform.app.gauges import add_reader_gauges
from iotplatform.app.roles import Assembly
from iotplatform.app.server_watch import MOST_NAMED, show_jetstream
from iotplatform.domain.ledger import LedgerEntry
from iotplatform.domain.organization import Organization
from iotplatform.observability.metrics import Metrics, render
from iotplatform.roles.persistence.ledger_audit import AT_ONCE, MOST_SHOWN, LedgerAudit

# Those of a running platform with one organization are about 500.
MOST_SERIES = 800


class Organizations:
    def __init__(self, count):
        self.all = [Organization(f"org-{number:04}", number, "A Corp", 1, 0) for number in range(count)]

    def organizations(self):
        return self.all


class Connection:
    def on_lost(self, callback):
        pass

    on_connected = on_lost


async def out_of_balance(organization):
    number = organization.epoch
    return LedgerEntry(
        organization.id, accepted=number, stored=0, dead_lettered=0, in_flight=0, refused=0, unused=0, balanced=False
    )


@pytest.fixture
def metrics():
    made = Metrics()
    yield made
    made.close()


def samples():
    return [
        sample
        for family in text_string_to_metric_families(render()[0].decode())
        for sample in family.samples
        if sample.name.startswith("iotplatform_")
    ]


async def test_a_thousand_organizations_that_all_have_every_trouble(metrics):
    organizations = Organizations(1_000)
    readers = [Readers(role, Connection(), metrics) for role in ("ingest", "analysis", "persistence")]
    for one in readers:
        for organization in organizations.all:
            reader = Reader(f"ORG_{organization.id}", "persistence", acquire=None)
            reader.pending = 1
            one._by_name[reader.stream, reader.consumer] = reader
    add_reader_gauges(metrics, Assembly(readers=readers))
    await asyncio.to_thread(metrics.expose)
    full = JetStreamState(
        storage=1,
        storage_limit=2,
        stream_count=1_003,
        consumer_count=4_000,
        api_errors=0,
        streams={"organizations": StreamState(1, 1)},
        fill_ratios={organization.id: 0.8 + organization.epoch / 10_000 for organization in organizations.all},
    )
    show_jetstream(metrics.servers, full)
    audit = LedgerAudit(out_of_balance, organizations, metrics)
    for _ in range(1_000 // AT_ONCE):
        await audit.refresh()

    found = await asyncio.to_thread(samples)
    assert len(found) < MOST_SERIES
    of = {
        name: {s.labels["organization"] for s in found if s.name == f"iotplatform_{name}"}
        for name in ("ledger_imbalance_readings", "organization_stream_fill_ratio", "ledger_gaps")
    }
    # Those are named that are furthest from where they should be.
    assert of["ledger_imbalance_readings"] == {f"org-{number:04}" for number in range(1_000 - MOST_SHOWN, 1_000)}
    assert of["organization_stream_fill_ratio"] == {f"org-{number:04}" for number in range(1_000 - MOST_NAMED, 1_000)}
    assert len(of["ledger_gaps"]) == MOST_SHOWN
    lag = {s.labels["role"]: s.value for s in found if s.name == "iotplatform_consumer_lag_messages"}
    assert lag == {"ingest": 1_000, "analysis": 1_000, "persistence": 1_000}


def test_a_stream_is_named_only_when_it_is_nearly_full(metrics):
    state = JetStreamState(0, None, 2, 2, 0, {}, {"calm": 0.5, "busy": 0.9})
    show_jetstream(metrics.servers, state)
    assert metrics.servers.fill_ratio.values == {("busy",): 0.9}
    assert metrics.servers.fullest_ratio.values == {(): 0.9}
    assert metrics.servers.jetstream_storage.values == {("used",): 0}
    show_jetstream(metrics.servers, JetStreamState(0, None, 0, 0, 0, {}, {}))
    assert metrics.servers.fill_ratio.values == {}
    assert metrics.servers.fullest_ratio.values == {(): 0.0}
