"""The last thing that happens to a log line: what looks like a credential is taken out of it.

Nobody logs one on purpose. But lines hold what servers and libraries said, and that may quote a URL or a header.
"""

from __future__ import annotations

import re
from typing import Final

HIDDEN: Final = b"***"

_SECRETS: Final = re.compile(
    # The password in a URL; a signed token; a key, setup or provisioning token of ours; what stands behind such a word.
    rb"(?P<url>://[^/\s:@\"']*:)[^/\s@\"']+(?=@)"
    rb"|eyJ[\w-]{8,}\.[\w-]+\.[\w-]*"
    rb"|\biot[a-z]{1,2}_[\w-]{8,}"
    rb"|(?P<word>\b(?:Bearer|Token|Basic)\s)[\w.~+/=:-]{8,}"
)
# Cheaper than the expression, and hardly ever there.
_SIGNS: Final = (b"://", b"eyJ", b"iot", b"Bearer", b"Token", b"Basic")


def hide_secrets(line: bytes) -> bytes:
    if not any(sign in line for sign in _SIGNS):
        return line
    return _SECRETS.sub(_hidden, line)


def _hidden(found: re.Match[bytes]) -> bytes:
    return (found["url"] or found["word"] or b"") + HIDDEN
