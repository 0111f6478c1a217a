"""Runs a program as somebody who is not root: PostgreSQL refuses to be root.

`python -I -S unprivileged.py (namespace|user) UID GID PROGRAM ARGUMENT...` becomes the program;
`... UID GID --reach PATH...` says whether that somebody can enter or run these paths.

namespace: in a user namespace of its own, where the real root has another number. To the outside it still owns root's
files, so nothing changes hands. user: plainly as that user.

It is started as a file in a fresh process, because only a process without threads may change its namespace, and imports
nothing but the standard library, because it runs without the environment's packages.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Final

LAUNCHER: Final = __file__
REFUSED: Final = 77
UNREACHABLE: Final = 78

_CLONE_NEWUSER: Final = 0x10000000


def main(arguments: list[str]) -> int:
    """Does not return when it has become the program."""
    way, uid, gid, program, *rest = arguments
    try:
        if way == "namespace":
            _enter_namespace(int(uid), int(gid))
        else:
            os.setgroups([])
            os.setgid(int(gid))
            os.setuid(int(uid))
    except OSError as error:
        sys.stderr.write(f"{way}: {error}\n")
        return REFUSED
    if program != "--reach":
        os.execv(program, [program, *rest])  # noqa: S606 - becoming another program is the purpose
    for path in rest:
        if not os.access(path, os.X_OK):
            sys.stdout.write(path)
            return UNREACHABLE
    return 0


def _enter_namespace(uid: int, gid: int) -> None:
    outer_uid, outer_gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWUSER) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    # The kernel wants this before a map of groups.
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"{uid} {outer_uid} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"{gid} {outer_gid} 1", encoding="ascii")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
