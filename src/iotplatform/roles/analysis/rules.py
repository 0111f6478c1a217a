"""The rules of each organization as an index, made anew when they, or the tags that they ask for, have changed."""

from __future__ import annotations

from collections.abc import Collection

from iotplatform.adapters.postgres.directory import Directory
from iotplatform.roles.analysis.rule_index import NO_TAGS, RuleIndex


class Rules:
    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._indexes: dict[int, RuleIndex] = {}

    async def index(self, epoch: int) -> RuleIndex:
        """The same object as long as nothing has changed.

        Raises:
            Unavailable: PostgreSQL is away, and they are not known.
        """
        rules = await self._directory.rules(epoch)
        by_tag = any(rule.devices is not None and rule.devices.tags for rule in rules)
        tags = await self._directory.device_tags(epoch) if by_tag else NO_TAGS
        index = self._indexes.get(epoch)
        if index is None or index.rules is not rules or index.tags is not tags:
            index = self._indexes[epoch] = RuleIndex(rules, tags, index)
        return index

    @property
    def have_silences(self) -> bool:
        """Whether any of them goes by time."""
        return any(index.has_silences for index in self._indexes.values())

    def forget(self, epochs: Collection[int]) -> None:
        """All but these epochs."""
        for epoch in self._indexes.keys() - set(epochs):
            del self._indexes[epoch]
