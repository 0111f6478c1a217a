"""The readers of a role that follows every partition of every organization."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from iotplatform.adapters.nats import subjects
from iotplatform.adapters.nats.reader import Reader
from iotplatform.adapters.nats.readers import Readers
from iotplatform.domain.organization import Organization

PartitionKey = tuple[int, int]


class Partition:
    """One partition of one organization, and the reader that follows it."""

    def __init__(self, organization: Organization, number: int) -> None:
        self.organization = organization
        self.number = number
        self.reader: Reader

    @property
    def key(self) -> PartitionKey:
        return self.organization.epoch, self.number


class PartitionReaders:
    """Adds and removes readers as organizations come and go."""

    def __init__(self, readers: Readers, acquire: Callable[[Partition], Awaitable[int]]) -> None:
        self._readers = readers
        self._acquire = acquire
        self._partitions: dict[PartitionKey, Partition] = {}
        self._by_reader: dict[Reader, Partition] = {}

    def follow(self, organizations: Iterable[Organization]) -> None:
        """Make the readers be those of exactly these organizations."""
        wanted = {
            (organization.epoch, number): organization
            for organization in organizations
            for number in range(organization.partitions)
        }
        for key in self._partitions.keys() - wanted.keys():
            partition = self._partitions.pop(key)
            del self._by_reader[partition.reader]
            self._readers.remove(partition.reader)
        for key, organization in wanted.items():
            if key not in self._partitions:
                self._add(Partition(organization, key[1]))

    def _add(self, partition: Partition) -> None:
        organization = partition.organization
        partition.reader = Reader(
            subjects.organization_stream(organization.id),
            subjects.partition_consumer(self._readers.role, organization.epoch, partition.number),
            lambda: self._acquire(partition),
        )
        self._partitions[partition.key] = partition
        self._by_reader[partition.reader] = partition
        self._readers.add(partition.reader)

    def of(self, reader: Reader) -> Partition | None:
        """None when its organization has been deleted while the reader's messages were on their way."""
        return self._by_reader.get(reader)
