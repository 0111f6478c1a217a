"""The readers of a role that follows every partition of every organization, shared by the processes of that role."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from iotplatform.adapters.nats import subjects
from iotplatform.adapters.nats.reader import Reader
from iotplatform.adapters.nats.readers import Readers
from iotplatform.adapters.nats.shares import Claim, SharedReaders
from iotplatform.domain.organization import Organization
from iotplatform.runtime.membership import Membership

PartitionKey = tuple[int, int]


class Partition:
    """One partition of one organization."""

    def __init__(self, organization: Organization, number: int) -> None:
        self.organization = organization
        self.number = number

    @property
    def key(self) -> PartitionKey:
        return self.organization.epoch, self.number


class PartitionReaders(SharedReaders):
    """Follows organizations as they come and go.

    `acquire` takes hold of a partition and returns its stored position; `let_go` is called when it is another's and
    everything that was taken up of it is committed, or when this process stops.
    """

    def __init__(
        self,
        readers: Readers,
        membership: Membership,
        acquire: Callable[[Partition], Awaitable[int]],
        let_go: Callable[[Partition], Awaitable[None]],
    ) -> None:
        super().__init__(readers, membership)
        self._acquire_partition = acquire
        self._let_go_of_partition = let_go
        self._partitions: dict[PartitionKey, Partition] = {}
        self._by_consumer: dict[str, Partition] = {}
        self._all_claims: dict[str, Claim] = {}

    def follow(self, organizations: Iterable[Organization]) -> None:
        """Share the partitions of exactly these organizations."""
        wanted = {
            (organization.epoch, number): organization
            for organization in organizations
            for number in range(organization.partitions)
        }
        for key in self._partitions.keys() - wanted.keys():
            partition = self._partitions.pop(key)
            del self._by_consumer[self._consumer(partition)]
            del self._all_claims[self._name(*key)]
        for key, organization in wanted.items():
            if key not in self._partitions:
                self._know(Partition(organization, key[1]))
        self.claim(self._all_claims)

    def of(self, reader: Reader) -> Partition | None:
        """None when its organization has been deleted while the reader's messages were on their way."""
        return self._by_consumer.get(reader.consumer)

    def holds_partition(self, epoch: int, number: int) -> bool:
        return self.holds(self._name(epoch, number))

    def _know(self, partition: Partition) -> None:
        consumer, name = self._consumer(partition), self._name(*partition.key)
        self._partitions[partition.key] = self._by_consumer[consumer] = partition
        self._all_claims[name] = Claim(
            key=name,
            stream=subjects.organization_stream(partition.organization.id),
            consumer=consumer,
            acquire=lambda: self._acquire_partition(partition),
            let_go=lambda: self._let_go_of_partition(partition),
            make=lambda: self._readers.consumers.create_of_partition(
                partition.organization, partition.number, self.role
            ),
        )

    def _consumer(self, partition: Partition) -> str:
        return subjects.partition_consumer(self.role, partition.organization.epoch, partition.number)

    def _name(self, epoch: int, number: int) -> str:
        return f"{self.role}/{epoch}/{number}"
