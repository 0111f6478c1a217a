"""A series that has fallen silent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import msgspec

from iotplatform.domain.conditions.comparison import Fault, Seconds, finite_faults
from iotplatform.domain.conditions.judgement import GOOD, Counted, Judge


class NoData(msgspec.Struct, Counted, frozen=True, tag="no_data", tag_field="type", forbid_unknown_fields=True):
    """Raises when nothing has arrived for `after_s`; every reading that arrives is good, whatever its value."""

    default_raise_after: ClassVar[int] = 1

    after_s: Seconds

    @property
    def silence_s(self) -> float:
        return self.after_s

    def judge(self) -> Judge:
        return lambda _value, _at, _last: GOOD

    def faults(self) -> Iterator[Fault]:
        yield from finite_faults("condition.after_s", self.after_s)

    def __str__(self) -> str:
        return f"no data for {self.after_s:g} s"
