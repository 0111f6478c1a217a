"""What is shipped beside the program is valid, and as careful as it says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from iotplatform.adapters.embedded.programs import find_nats_server
from iotplatform.app.http.server import KEEP_ALIVE_S
from iotplatform.observability.log_level import LEVELS
from tests.support.compose import REPOSITORY, ROLES, environment_of, load

STRICT = bool(os.environ.get("CI_STRICT"))
CONFIG = REPOSITORY / "config"


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = load()["services"]
    return found


def program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        if STRICT:
            pytest.fail(f"{name} is missing, and CI_STRICT is set")
        pytest.skip(f"{name} is not installed")
    return path


def check(*command: str, **environment: str) -> None:
    ran = subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


class TestCompose:
    @pytest.mark.parametrize("profile", ["whole", "split", "alloy"])
    def test_compose_takes_it(self, profile: str) -> None:
        check(program("docker-compose"), "--profile", profile, "config", "-q")

    def test_compose_takes_the_override_with_traces(self, services: dict[str, Any]) -> None:
        files = ("-f", "compose.yaml", "-f", "compose.traces.yaml")
        check(program("docker-compose"), *files, "--profile", "whole", "--profile", "split", "config", "-q")
        override = load("compose.traces.yaml")["services"]
        jaeger = override.pop("jaeger")
        assert re.search(r":\d+\.\d+$", jaeger["image"])
        assert jaeger["mem_limit"]
        assert [port for port in jaeger["ports"] if not port.startswith("127.0.0.1:")] == []
        assert override.keys() == {"app", *ROLES}

    def test_compose_takes_the_production_override(self, tmp_path: Path) -> None:
        compose = program("docker-compose")
        for name in ("compose.yaml", "compose.production.yaml", "config"):
            (tmp_path / name).symlink_to(REPOSITORY / name)
        (tmp_path / "secrets").mkdir()
        (tmp_path / "secrets" / "nats.env").write_text("")
        files = ("-f", str(tmp_path / "compose.yaml"), "-f", str(tmp_path / "compose.production.yaml"))
        for profile in ("whole", "split"):
            check(compose, "--project-directory", str(tmp_path), *files, "--profile", profile, "config", "-q")

    def test_nothing_is_reached_from_other_machines(self, services: dict[str, Any]) -> None:
        published = [port for service in services.values() for port in service.get("ports", [])]
        assert {"127.0.0.1:8080:8080", "127.0.0.1:8081:8081", "127.0.0.1:3000:3000", "127.0.0.1:9090:9090"} <= {
            *published
        }
        assert [port for port in published if not port.startswith("127.0.0.1:")] == []

    def test_production_lets_in_only_what_asks_for_credentials_over_tls(self) -> None:
        services = load("compose.production.yaml")["services"]
        published = {(name, port) for name, service in services.items() for port in service.get("ports", [])}
        assert {each for each in published if not each[1].startswith("127.0.0.1:")} == {("nats", "8883:8883")}
        configured = (CONFIG / "nats" / "node.conf").read_text()
        assert re.search(r'mqtt \{\s+listen: "0.0.0.0:8883"\s+tls \{ cert_file: ', configured)
        assert "auth_callout {" in configured

    def test_every_service_has_a_pinned_image_and_a_bound_of_memory(self, services: dict[str, Any]) -> None:
        for name, service in services.items():
            image, _, tag = service["image"].partition(":")
            assert image == "iotplatform" or re.search(r"\d+\.\d+", tag), name
            assert service["mem_limit"], name

    def test_every_secret_says_that_it_is_a_demo(self, services: dict[str, Any]) -> None:
        for name, service in services.items():
            for key, value in environment_of(service).items():
                secret = re.search(r"PASSWORD|TOKEN|SECRET", key) or re.search(r"://[^/]*:[^/]*@", value)
                if secret and key != "GF_SECURITY_ADMIN_PASSWORD":
                    assert "demo" in value, (name, key)

    def test_the_profile_has_each_role_once(self, services: dict[str, Any]) -> None:
        split = {name: service for name, service in services.items() if service.get("profiles") == ["split"]}
        roles = {name: environment_of(service).get("IOTPLATFORM_ROLES") for name, service in split.items()}
        assert {name: role for name, role in roles.items() if role} == ROLES

    def test_production_takes_no_demo_value_of_the_platform(self) -> None:
        app = load()["services"]["app"]
        override = environment_of(load("compose.production.yaml")["services"]["app"])
        left = environment_of(app) | override
        assert left["IOTPLATFORM_AUTH__MODE"] == "required"
        assert [key for key, value in left.items() if "demo-" in value] == []


class TestConfigurations:
    @pytest.mark.parametrize("name", ["single", "node"])
    def test_nats_takes_its_configuration(self, name: str, tmp_path: Path) -> None:
        environment = environment_of({"env_file": ["config/nats/demo.env"]})
        environment |= {"NATS_STORE": json.dumps(str(tmp_path)), "NATS_NAME": "nats-1", "NATS_ROUTES": "[]"}
        file = CONFIG / "nats" / f"{name}.conf"
        if name == "node":
            # Its certificate is where only a container has one.
            text = re.sub(r"tls \{.*\}", "", file.read_text())
            file = tmp_path / "node.conf"
            file.write_text(text)
        check(str(find_nats_server()), "-t", "-c", str(file), **environment, NATS_ROUTES_PASSWORD="demo-routes")

    @pytest.mark.parametrize("name", ["ingress", "production"])
    def test_nginx_ends_idle_connections_before_the_platform_does(self, name: str) -> None:
        text = (CONFIG / "nginx" / f"{name}.conf").read_text()
        found = re.findall(r"^\s+keepalive_timeout (\d+)s;", text, re.MULTILINE)
        assert [int(seconds) < KEEP_ALIVE_S - 5 for seconds in found] == [True]

    def test_systemd_takes_its_unit(self, tmp_path: Path) -> None:
        analyze = program("systemd-analyze")
        unit = tmp_path / "iotplatform.service"
        # The program and the user are those of another machine.
        text = (CONFIG / "systemd" / "iotplatform.service").read_text()
        assert "IOTPLATFORM_AUTH__MODE=required" in text
        unit.write_text(text.replace("/opt/iotplatform/bin/iotplatform", "/bin/true"))
        check(analyze, "verify", "--man=no", str(unit))

    @pytest.mark.parametrize("name", ["prometheus", "production"])
    def test_prometheus_takes_its_configuration_and_rules(self, name: str) -> None:
        check(program("promtool"), "check", "config", f"config/prometheus/{name}.yml")

    def test_alerts_fire_on_their_causes_only(self) -> None:
        check(program("promtool"), "test", "rules", "tests/acceptance/deployment/alerts.test.yml")

    def test_every_alert_has_a_test_and_a_page_to_read_at_night(self) -> None:
        groups = yaml.safe_load((CONFIG / "prometheus" / "alerts.yml").read_text())["groups"]
        tests = (Path(__file__).parent / "alerts.test.yml").read_text()
        for rule in (rule for group in groups for rule in group["rules"]):
            page = (REPOSITORY / rule["annotations"]["runbook"]).read_text()
            assert page.startswith(f"# {rule['alert']}\n")
            assert f"alertname: {rule['alert']}" in tests

    def test_dashboards_ask_data_sources_that_are_provisioned(self) -> None:
        provisioned = yaml.safe_load((CONFIG / "grafana/provisioning/datasources/datasources.yml").read_text())
        known = {source["uid"] for source in provisioned["datasources"]}
        boards = [json.loads(file.read_text()) for file in (CONFIG / "grafana" / "dashboards").glob("*.json")]
        asked = {
            target["datasource"]["uid"] for board in boards for panel in board["panels"] for target in panel["targets"]
        }
        assert asked <= known
        assert len({board["uid"] for board in boards}) == len(boards) >= 8

    def test_labels_of_log_lines_are_bounded(self) -> None:
        """Role and level, and of these only what the platform has."""
        promtail = yaml.safe_load((CONFIG / "promtail" / "promtail.yml").read_text())
        (job,) = promtail["scrape_configs"]
        (match,) = [stage["match"] for stage in job["pipeline_stages"]]
        labels = [stage["labels"] for stage in match["stages"] if "labels" in stage]
        assert labels == [{"level": "level", "role": "role"}]
        assert {relabel["target_label"] for relabel in job["relabel_configs"]} == {"service"}
        templates = {
            stage["template"]["source"]: stage["template"]["template"]
            for stage in match["stages"]
            if "template" in stage
        }
        known = {source: set(re.findall(r'eq \.Value "(\w+)"', template)) for source, template in templates.items()}
        assert known == {"role": set(ROLES.values()), "level": {*LEVELS, "critical"}}
        otherwise = {source: re.search(r"else }}(\w+)", template)[1] for source, template in templates.items()}  # type: ignore[index]
        assert otherwise == {"role": "platform", "level": "unknown"}
        alloy = (CONFIG / "alloy" / "config.alloy").read_text()
        for source, template in templates.items():
            assert template in alloy.replace('\\"', '"'), source

    @pytest.mark.parametrize("file", ["loki/loki.yml", "promtail/promtail.yml"])
    def test_it_is_yaml(self, file: str) -> None:
        assert yaml.safe_load((CONFIG / file).read_text())
