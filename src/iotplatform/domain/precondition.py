"""What a writer expects the thing to be that it changes: the way to notice that somebody else was faster."""

from __future__ import annotations

from typing import Final

import msgspec

from iotplatform.errors import Rejected

_MOST_VERSIONS: Final = 1 << 24
_MOST_OWNERS: Final = 1 << 34


class Precondition(msgspec.Struct, frozen=True):
    """`versions`: one of these (None: whichever); `exists`: it must be there, or must not (None: either)."""

    versions: frozenset[int] | None = None
    exists: bool | None = None

    def check(self, version: int | None) -> None:
        """Compare with the version there is, None when there is nothing; inside the transaction that changes it.

        Raises:
            Rejected: it is another.
        """
        if self.exists is False and version is not None:
            raise Rejected("stale", "it exists already")
        if version is None and (self.exists or self.versions is not None):
            raise Rejected("stale", "it does not exist (any more)")
        if self.versions is not None and version not in self.versions:
            raise Rejected(
                "stale",
                "it was changed meanwhile: read it again, and repeat your change on what it is now",
            )

    def within(self, owner: int) -> Precondition:
        """For versions that are counted from 1 in each owner: those of `tag_within` that are meant for this one."""
        if self.versions is None:
            return self
        meant = (divmod(tag, _MOST_VERSIONS) for tag in self.versions)
        return Precondition(
            frozenset(version for found, version in meant if found == owner % _MOST_OWNERS), self.exists
        )


def tag_within(owner: int, version: int) -> int:
    """One number for a version of what belongs to `owner`: an epoch, or the moment in which it was made.

    What is made again under the id of something that was deleted has another owner, and so no tag of before.
    """
    return owner % _MOST_OWNERS * _MOST_VERSIONS + version


NO_PRECONDITION: Final = Precondition()
