"""The pipeline of config/promtail/promtail.yml, stage by stage as Promtail's documentation has them.

Promtail itself can not be had where the tests run. Every stage that the file uses is here; another one is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

from tests.support.compose import REPOSITORY

RFC3339_NANO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
IF_ONE_OF = re.compile(
    r'\{\{ if or (?P<known>(?:\(eq \.Value "\w+"\) ?)+)\}\}'
    r"\{\{ \.Value \}\}\{\{ else \}\}(?P<otherwise>\w+)\{\{ end \}\}"
)


class Pipeline:
    def __init__(self) -> None:
        model = yaml.safe_load((REPOSITORY / "config" / "promtail" / "promtail.yml").read_text())
        (job,) = model["scrape_configs"]
        (stage,) = job["pipeline_stages"]
        selector = re.fullmatch(r'\{service=~"([\w|-]+)"\}', stage["match"]["selector"])
        assert selector is not None
        self._services = re.compile(selector[1])
        self._stages = stage["match"]["stages"]

    def labels(self, service: str, line: str) -> Mapping[str, str]:
        """What the line is stored under; `ts` is the time that was taken from it, if one was."""
        labels = {"service": service}
        extracted: dict[str, Any] = {}
        if not self._services.fullmatch(service):
            return labels
        for stage in self._stages:
            ((kind, options),) = stage.items()
            if kind == "json":
                try:
                    found = json.loads(line)
                except ValueError:
                    continue
                extracted |= {name: found[path] for name, path in options["expressions"].items() if path in found}
            elif kind == "timestamp":
                assert options["format"] == "RFC3339Nano"
                if RFC3339_NANO.fullmatch(str(extracted.get(options["source"]))):
                    labels["ts"] = extracted[options["source"]]
            elif kind == "template":
                shape = IF_ONE_OF.fullmatch(options["template"])
                assert shape is not None
                value = extracted.get(options["source"], "")
                known = re.findall(r'"(\w+)"', shape["known"])
                extracted[options["source"]] = value if value in known else shape["otherwise"]
            elif kind == "labels":
                labels |= {name: extracted[source] for name, source in options.items()}
            else:
                raise AssertionError(f"{kind} is unknown here")
        return labels
