"""Rule packs: a set of rules that many organizations share and one place keeps in step."""

from __future__ import annotations

from typing import Final

import msgspec

from iotplatform.domain.rule import Rule

MAX_RULES: Final = 500


class RulePack(msgspec.Struct, frozen=True):
    """The rules belong to no organization yet: their `organization_id` is empty, and their ids are the pack's own."""

    id: str
    name: str
    rules: tuple[Rule, ...]

    def rules_for(self, organization_id: str) -> list[Rule]:
        """The rules as that organization gets them."""
        return [
            msgspec.structs.replace(rule, id=id_in_organization(self.id, rule.id), organization_id=organization_id)
            for rule in self.rules
        ]


def id_in_organization(pack_id: str, rule_id: str) -> str:
    return f"{pack_id}-{rule_id}"
