"""Runs the services of compose.yaml whose programs are at hand as processes, in namespaces of network and mounts.

There the services have the names, ports, environment, commands and configuration files that compose.yaml gives them;
only the places of files differ. Types the walk-through of the README, asks Prometheus what every panel of every
dashboard asks, and prints one JSON document. To be run as root from the repository: `unshare --net --mount python -m
tests.support.compose_stack FOLDER`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message

from iotplatform.adapters.embedded.programs import find_nats_server, find_postgres, find_redis_server
from tests.support.compose import REPOSITORY, environment_of, image_environment, load
from tests.support.compose_network import Names

WITHIN_S = 60.0
INGEST = "http://localhost:8080/ingest"
NAMES = ("app", "nats", "postgres", "redis", "mail", "prometheus", "localhost")
# Of a stack in which everything gets through.
MAY_BE_EMPTY = {"Notifications that did not get through"}
NOT_FOR_BOARDS = (
    "SET transaction_read_only = off; DELETE FROM organizations",
    "SELECT * FROM users",
    "SELECT metadata FROM devices",
    "SELECT config FROM channels",
    "SELECT value FROM readings",
    "SELECT pg_read_file('/etc/passwd')",
)
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


class Mails(Message):
    def __init__(self) -> None:
        super().__init__()
        self.subjects: list[str] = []

    def handle_message(self, message: Any) -> None:
        self.subjects.append(str(message["Subject"]))


class Stack:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._services = load()["services"]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: list[str], **environment: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                env={"PATH": os.environ["PATH"]} | environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes[name] = process
        return process

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text(errors="replace")

    def end(self, name: str) -> int:
        process = self.processes[name]
        process.send_signal(signal.SIGINT if name == "postgres" else signal.SIGTERM)
        return process.wait(60)

    def stop(self) -> dict[str, int]:
        return {name: self.end(name) for name in reversed(self.processes)}

    def nats(self) -> None:
        service = self._services["nats"]
        environment = environment_of(service) | {"NATS_STORE": json.dumps(str(self._folder / "nats"))}
        config = mounted(service, service["command"][1])
        self.start("nats", [str(find_nats_server()), "-c", str(config)], **environment)
        until(lambda: get("http://nats:8222/healthz?js-enabled-only=true"), "nats")

    def redis(self) -> None:
        service = self._services["redis"]
        (self._folder / "redis").mkdir()
        config = mounted(service, service["command"][1])
        self.start("redis", [str(find_redis_server()), str(config), "--dir", str(self._folder / "redis")])
        until(lambda: socket.create_connection(("redis", 6379), 1).close(), "redis")

    def postgres(self) -> None:
        environment = environment_of(self._services["postgres"])
        programs = find_postgres().bin
        # Of nobody, for whom the test's folder is closed: PostgreSQL does not run as root.
        place = Path("/mnt")
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=777", "tmpfs", str(place)], check=True)
        password = place / "password"
        password.write_text(environment["POSTGRES_PASSWORD"])
        password.chmod(0o644)
        cluster = str(place / "cluster")
        user = environment["POSTGRES_USER"]
        make = [str(programs / "initdb"), "-D", cluster, "-U", user, "--pwfile", str(password), "-A", "scram-sha-256"]
        subprocess.run([*NOBODY, *make], check=True, stdout=subprocess.DEVNULL, env={"PATH": os.environ["PATH"]})
        # As the image does it.
        with (place / "cluster" / "pg_hba.conf").open("a") as rules:
            rules.write("host all all all scram-sha-256\n")
        serve = [str(programs / "postgres"), "-D", cluster, "-k", str(place), "-c", "listen_addresses=*"]
        self.start("postgres", [*NOBODY, *serve])
        until(lambda: socket.create_connection(("postgres", 5432), 1).close(), "postgres")
        psql = [
            str(programs / "psql"),
            "-h",
            "postgres",
            "-U",
            user,
            "-c",
            "create database " + environment["POSTGRES_DB"],
        ]

        def make_database() -> None:
            subprocess.run(
                [*psql, "postgres"], check=True, capture_output=True, env={"PGPASSWORD": password.read_text()}
            )

        until(make_database, "postgres")
        script = mounted(self._services["postgres"], "/docker-entrypoint-initdb.d/grafana.sql")
        subprocess.run(
            [*psql[:5], "-d", environment["POSTGRES_DB"], "-v", "ON_ERROR_STOP=1", "-qf", str(script)],
            check=True,
            env={"PGPASSWORD": password.read_text()},
        )

    def platform(
        self,
        *arguments: str,
        service: str,
        within: Sequence[str] = (),
        log_as: str | None = None,
        environment: Mapping[str, str] | None = None,
        data_dir: str | None = None,
    ) -> subprocess.Popen[bytes]:
        """`within` is a command in front that becomes the process; `environment` is the service's unless given."""
        name = log_as or service
        environment = image_environment() | dict(environment or environment_of(self._services[service]))
        environment |= {"PATH": os.environ["PATH"], "IOTPLATFORM_DATA_DIR": data_dir or str(self._folder / name)}
        # No InfluxDB 2 can be had here: what is empty counts as not set, and readings go to PostgreSQL.
        environment |= {name: "" for name in environment if name.startswith("IOTPLATFORM_INFLUX__")}
        return self.start(name, [*within, sys.executable, "-m", "iotplatform", *arguments], **environment)

    def prometheus(self) -> None:
        program = shutil.which("prometheus")
        assert program is not None
        service = self._services["prometheus"]
        config = mounted(service, service["command"][0].partition("=")[2])
        place = f"--storage.tsdb.path={self._folder / 'prometheus'}"
        self.start("prometheus", [program, f"--config.file={config}", *service["command"][1:], place])
        until(lambda: get("http://prometheus:9090/-/ready"), "prometheus")


def mounted(service: dict[str, Any], inside: str) -> Path:
    """The file of this repository that the container sees under that name."""
    for volume in service["volumes"]:
        ours, theirs, *_ = volume.split(":")
        if inside.startswith(theirs) and ours.startswith("."):
            return REPOSITORY / (ours + inside.removeprefix(theirs))
    raise AssertionError(f"{inside} is not mounted")


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        body: bytes = answer.read()
        return body


def until(attempt: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while True:
        try:
            attempt()
        except (OSError, subprocess.CalledProcessError) as error:
            if time.monotonic() > deadline:
                raise SystemExit(f"{what} does not come up: {error}") from error
            time.sleep(0.1)
        else:
            return


def walk(outcomes: dict[str, str]) -> None:
    """The commands of the README that talk to the platform, each with what came out."""
    for block in re.findall(r"```console\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command = part.partition("\n")[0]
            if "/organizations/lab/" in command or "curl" not in command:
                continue
            shown = part.partition("\n")[2].strip()
            pattern = ".*?".join(re.escape(piece) for piece in shown.split("…"))
            output = ""
            deadline = time.monotonic() + 15
            while time.monotonic() < deadline:
                ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
                output = ran.stdout.strip()
                if "-X POST" in command or re.fullmatch(pattern, output, re.DOTALL):
                    break
                time.sleep(0.1)
            outcomes[command] = "" if re.fullmatch(pattern, output, re.DOTALL) else f"{output}\n  instead of\n{shown}"


def ask_prometheus() -> dict[str, list[str]]:
    """For every dashboard the panels whose queries return nothing."""
    empty: dict[str, list[str]] = {}
    for file, panel, target in panels("prometheus"):
        found = empty.setdefault(file.stem, [])
        if not has_data(filled_in(target["expr"])):
            found.append(f"{panel['title']}: {target['expr']}")
    return empty


def ask_postgresql() -> dict[str, str]:
    """What is wrong with each panel that asks it, as the role that Grafana has."""
    wrong: dict[str, str] = {}
    password = environment_of(load()["services"]["grafana"])["GF_POSTGRES_PASSWORD"]
    psql = [str(find_postgres().bin / "psql"), "-h", "postgres", "-U", "grafana", "-d", "iotplatform", "-At", "-c"]
    asked = [
        (f"{file.stem}: {panel['title']}", target["rawSql"])
        for file, panel, target in panels("grafana-postgresql-datasource")
    ]
    for what, query in [*asked, *choices()]:
        ran = subprocess.run(
            [*psql, filled_in(query)], env={"PGPASSWORD": password}, capture_output=True, text=True, check=False
        )
        if ran.returncode:
            wrong[what] = ran.stderr
        elif not ran.stdout.strip() and what.partition(": ")[2] not in MAY_BE_EMPTY:
            wrong[what] = "no rows"
    for statement in NOT_FOR_BOARDS:
        refused = subprocess.run(
            [*psql, statement], env={"PGPASSWORD": password}, capture_output=True, text=True, check=False
        )
        if "permission denied" not in refused.stderr:
            wrong[statement] = refused.stdout + refused.stderr
    return wrong


def choices() -> list[tuple[str, str]]:
    """What the boards' variables ask PostgreSQL."""
    return [
        (f"{file.stem}: {variable['name']}", variable["query"])
        for file in sorted((REPOSITORY / "config/grafana/dashboards").glob("*.json"))
        for variable in json.loads(file.read_text())["templating"]["list"]
        if variable.get("datasource", {}).get("type") == "grafana-postgresql-datasource"
    ]


def panels(kind: str) -> list[tuple[Path, dict[str, Any], dict[str, Any]]]:
    """Every target of that kind of data source, with its file and its panel."""
    return [
        (file, panel, target)
        for file in sorted((REPOSITORY / "config/grafana/dashboards").glob("*.json"))
        for panel in json.loads(file.read_text())["panels"]
        for target in panel["targets"]
        if target["datasource"]["type"] == kind
    ]


def filled_in(query: str, organization: str = "orgA", device: str = "machine-124") -> str:
    """As Grafana fills in variables and macros."""
    for variable, value in (("organization", organization), ("device", device)):
        query = query.replace(f"${{{variable}:sqlstring}}", f"'{value}'").replace(f"${variable}", value)
    query = query.replace("$__timeGroupAlias(time, $__interval)", "$__timeGroupAlias(time, '1m')")
    query = re.sub(r"\$__timeGroupAlias\(([\w.]+), '(\d)m'\)", r"date_bin('\2 minutes', \1, 'epoch') AS time", query)
    query = re.sub(r"\$__timeFilter\(([\w.]+)\)", r"\1 > now() - interval '1 hour'", query)
    query = query.replace("$timeFilter", "time > now() - 1h").replace("$__interval", "1m")
    assert "$" not in query, query
    return query


def has_data(expression: str) -> bool:
    query = urllib.parse.urlencode({"query": expression})
    return bool(json.loads(get(f"http://prometheus:9090/api/v1/query?{query}"))["data"]["result"])


def scraped_under_load(scrapes: int) -> None:
    """Until Prometheus has seen so much of a platform that takes readings, and refuses some."""

    def check() -> None:
        post(INGEST, reading(94.0))
        with contextlib.suppress(urllib.error.HTTPError):
            post(INGEST, {"organization_id": "orgA"})
        query = urllib.parse.urlencode({"query": f'count_over_time(up{{job="iotplatform"}}[5m]) >= {scrapes}'})
        if not json.loads(get(f"http://prometheus:9090/api/v1/query?{query}"))["data"]["result"]:
            raise OSError("too few scrapes")

    until(check, "Prometheus")


def reading(value: float) -> dict[str, object]:
    return {"organization_id": "orgA", "device_id": "machine-124", "sensor_name": "temp2", "value": value}


def main() -> None:
    folder = Path(sys.argv[1])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    resolver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    resolver.bind(("127.0.0.1", 53))
    Names(folder, {name: ["127.0.0.1"] for name in NAMES}).serve(resolver)
    mails = Mails()
    mail = Controller(mails, hostname="127.0.0.1", port=1025)
    mail.start()
    stack = Stack(folder)
    report: dict[str, Any] = {"walk": {}}
    try:
        stack.nats()
        stack.redis()
        stack.postgres()
        report["migrate"] = stack.platform("migrate", service="migrate").wait(WITHIN_S)
        stack.platform("serve", service="app")
        until(lambda: get("http://app:9464/readyz"), "app")
        stack.prometheus()
        walk(report["walk"])
        channel = {"id": "mail", "name": "Mail", "type": "email", "config": {"to": ["ops@iotplatform.example"]}}
        post("http://localhost:8081/organizations/orgA/channels", channel)
        for value in (91.0, 92.0, 93.0):
            post(INGEST, reading(value))

        def check_mail() -> None:
            if not mails.subjects:
                raise OSError("no mail")

        until(check_mail, "a mail")
        report["mail"] = mails.subjects
        scraped_under_load(3)
        report["empty_panels"] = ask_prometheus()
        report["wrong_panels"] = ask_postgresql()
        report["up"] = json.loads(get("http://prometheus:9090/api/v1/query?query=up"))["data"]["result"]
    finally:
        report["log"] = stack.log("app")[-4_000:] if (folder / "app.log").exists() else ""
        report["exits"] = stack.stop()
        mail.stop()
        print(json.dumps(report))


def post(url: str, body: object) -> None:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=20).close()


if __name__ == "__main__":
    main()
