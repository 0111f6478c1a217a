"""The receiver's check in docs/notifications.md takes what the platform signs, and nothing else."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from iotplatform.adapters.webhook.signature import sign

GUIDE = Path(__file__).parents[4] / "docs" / "notifications.md"


def test_the_guide_tells_how_to_check_a_signature() -> None:
    [code] = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    now = int(time.time())
    headers = {"Iotplatform-Timestamp": str(now), "Iotplatform-Signature": sign("s", now, b"{}")}
    assert names["is_ours"]("s", headers, b"{}")
    assert not names["is_ours"]("s", headers, b"{ }")
    assert not names["is_ours"]("t", headers, b"{}")
    old = {"Iotplatform-Timestamp": str(now - 3_600), "Iotplatform-Signature": sign("s", now - 3_600, b"{}")}
    assert not names["is_ours"]("s", old, b"{}")
