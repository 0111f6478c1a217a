"""compose.yaml as its programs see it: the environment, command and files of each service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parent.parent.parent
# The services of the profile `split`.
ROLES = {
    "management-service": "management",
    "ingestion-service": "ingest",
    "analysis-engine": "analysis",
    "notification-service": "notification",
    "data-persistence-service": "persistence",
}


def load(name: str = "compose.yaml") -> dict[str, Any]:
    model: dict[str, Any] = yaml.safe_load((REPOSITORY / name).read_text())
    return model


def environment_of(service: dict[str, Any]) -> dict[str, str]:
    """As compose hands it over: what is written out wins over the files."""
    found: dict[str, str] = {}
    for file in service.get("env_file", []):
        for line in (REPOSITORY / file).read_text().splitlines():
            name, separator, value = line.partition("=")
            if separator and not line.startswith("#"):
                found[name] = value
    return found | {name: str(value) for name, value in service.get("environment", {}).items()}


def image_environment() -> dict[str, str]:
    """What the last stage of the Dockerfile sets."""
    text = (REPOSITORY / "Dockerfile").read_text().rpartition("\nENV ")[2].partition("\nVOLUME")[0]
    pairs = (part.partition("=") for part in text.replace("\\\n", " ").split())
    return {name: value for name, _, value in pairs}
