"""What a writer expects the thing to be that it changes: the way to notice that somebody else was faster."""

from __future__ import annotations

from typing import Final

import msgspec

from iotplatform.errors import Rejected


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
            raise Rejected("stale", f"it exists already, in version {version}")
        if version is None and (self.exists or self.versions is not None):
            raise Rejected("stale", "it does not exist (any more)")
        if self.versions is not None and version not in self.versions:
            raise Rejected(
                "stale",
                f"it was changed meanwhile and is now version {version}: read it again, and repeat your change on that",
            )


NO_PRECONDITION: Final = Precondition()
