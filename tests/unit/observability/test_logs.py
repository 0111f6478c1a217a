"""Log lines."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import uuid

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from iotplatform.domain.credentials import API_KEY_PREFIX, SETUP_TOKEN_PREFIX
from iotplatform.observability import logs
from iotplatform.observability.logs import BURST, LINES_PER_SECOND, RateLimit
from iotplatform.observability.metrics import Metrics
from iotplatform.observability.secrecy import hide_secrets


class Output(io.BytesIO):
    """Keeps what was written to it after it was closed, and is a standard output."""

    @property
    def buffer(self):
        return self

    def isatty(self):
        return False


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def configured(metrics, monkeypatch):
    """Configures logging for one test; returns a function that flushes and gives what was written."""
    before = structlog.get_config()
    handlers, level = logging.root.handlers[:], logging.root.level
    output, writers = Output(), []

    def configure(format_="json", level="info"):
        monkeypatch.setattr(sys, "stdout", output)
        made = logs.configure(metrics, format_=format_, level=level)
        writers.append(made.writer)
        monkeypatch.undo()

        def written():
            writers[-1].close()
            return output.getvalue().decode()

        written.level = made.level
        return written

    yield configure
    for writer in writers:
        writer.close()
    structlog.configure(**before)
    logging.captureWarnings(capture=False)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def entries(text):
    return [json.loads(line) for line in text.split("\n") if line]


class TestJson:
    def test_a_line(self, configured):
        written = configured()
        structlog.get_logger(role="ingest").info("ingest.published", subject="readings.orgA", readings=3)
        (entry,) = entries(written())
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", entry.pop("ts"))
        assert entry == {
            "level": "info",
            "role": "ingest",
            "action": "ingest.published",
            "subject": "readings.orgA",
            "readings": 3,
        }

    def test_what_has_no_role_is_the_app_s(self, configured):
        written = configured()
        structlog.get_logger().warning("server.waiting")
        (entry,) = entries(written())
        assert list(entry) == ["ts", "level", "role", "action"]
        assert (entry["role"], entry["level"]) == ("app", "warning")

    def test_one_line_whatever_is_in_it(self, configured):
        written = configured()
        strange = {
            "newline": "a\nb\r\u2028",
            "unknown": uuid.UUID(int=5),
            "error": ValueError("x"),
            "inf": float("inf"),
            "surrogate": "\udc80",
            "bytes": b"\xff",
            "big": 2**70,
            "nested": {"a": [1, {"b": {3}}]},
            "keys": {1: 2, None: 3},
        }
        for name, value in strange.items():
            structlog.get_logger().info("strange", name=name, value=value)
        found = entries(written())
        assert [entry["name"] for entry in found] == list(strange)
        assert found[0]["value"] == "a\nb\r\u2028"

    def test_an_exception_is_one_field(self, configured):
        written = configured()
        try:
            raise ValueError("broken")
        except ValueError:
            structlog.get_logger().exception("role.failed")
        (entry,) = entries(written())
        assert entry["level"] == "error"
        assert "ValueError: broken" in entry["exception"]
        assert "Traceback" in entry["exception"]

    def test_below_the_level_nothing_is_written(self, configured):
        written = configured(level="warning")
        log = structlog.get_logger()
        log.debug("a")
        log.info("b")
        log.warning("c")
        log.error("d")
        assert [entry["action"] for entry in entries(written())] == ["c", "d"]

    def test_what_libraries_say_comes_in_our_shape(self, configured):
        written = configured()
        logging.getLogger("some.library").warning("broken %s", "pipe")
        logging.getLogger("some.library").info("chatter")
        try:
            raise ValueError("deep inside")
        except ValueError:
            logging.getLogger("some.library").exception("failed")
        logging.getLogger("some.library").critical("worse")
        first, second, third = entries(written())
        assert (first["action"], first["logger"], first["detail"], first["level"]) == (
            "library.log",
            "some.library",
            "broken pipe",
            "warning",
        )
        assert "deep inside" in second["exception"]
        assert third["level"] == "error"

    def test_a_mistake_in_a_library_s_line_is_not_ours(self, configured):
        written = configured()
        wrong = ("%d of %d", 1)
        logging.getLogger("some.library").warning(*wrong)
        assert entries(written())[0]["detail"] == "%d of %d"


class TestConsole:
    def test_a_line_for_people(self, configured):
        written = configured("console")
        structlog.get_logger(role="analysis").info("analysis.breach", organization="orgA", breaches=2)
        assert re.fullmatch(
            r"\d\d:\d\d:\d\d\.\d{3} info +analysis +analysis\.breach +organization=orgA breaches=2\n", written()
        )

    def test_mails_and_traces_are_shown_below(self, configured):
        written = configured("console")
        structlog.get_logger().info("notification.sent", channel="log", mail="To: ops\n\nToo hot")
        lines = written().splitlines()
        assert lines[0].endswith("channel=log")
        assert lines[1:] == ["    To: ops", "    ", "    Too hot"]

    def test_what_is_no_text_is_escaped(self, configured):
        written = configured("console")
        structlog.get_logger().info("strange", value="\udc80")
        assert "value=\\udc80" in written()

    def test_fields_can_be_told_apart_and_nothing_has_none(self, configured):
        written = configured("console")
        structlog.get_logger().info("a", subject="Alarm raised: x", to="", reason=None, readings=[1, 2])
        assert written().rstrip("\n").endswith('subject="Alarm raised: x" to="" readings=[1, 2]')

    @given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
    def test_no_text_tells_a_terminal_what_to_do(self, text):
        event = {"ts": "2026-01-01T00:00:00.000000Z", "level": "info", "role": "app", "action": "a"}
        line = logs._Console(coloured=False)(None, "info", event | {"detail": text, "mail": f"Subject: {text}"})
        assert all(one.isprintable() for one in line.decode().replace("\n    ", ""))

    @pytest.mark.parametrize(("no_colour", "coloured"), [("", True), ("1", False)])
    def test_a_terminal_has_colours_unless_it_wants_none(self, configured, monkeypatch, no_colour, coloured):
        monkeypatch.setenv("NO_COLOR", no_colour)
        monkeypatch.setattr(Output, "isatty", lambda _: True)
        written = configured(None)
        structlog.get_logger().warning("server.waiting")
        structlog.get_logger().info("a")
        warned, said = written().splitlines()
        assert warned.startswith("\x1b[33m") == coloured
        assert "\x1b" not in said

    def test_no_terminal_means_json(self, configured):
        written = configured(None)
        structlog.get_logger().info("a")
        assert entries(written())[0]["action"] == "a"


class TestRateLimit:
    @pytest.fixture
    def limit(self, metrics):
        self.now = 0.0
        return RateLimit(metrics, now=lambda: self.now)

    def passes(self, limit, action, method="info"):
        try:
            return limit(None, method, {"event": action})
        except structlog.DropEvent:
            return None

    def test_the_next_line_says_how_many_were_left_out(self, limit, metrics):
        shown = [self.passes(limit, "a") for _ in range(BURST + 30)]
        assert shown == [{"event": "a"}] * BURST + [None] * 30
        self.now += 2.0 / LINES_PER_SECOND
        assert self.passes(limit, "a") == {"event": "a", "left_out": 30}
        assert self.passes(limit, "a") == {"event": "a"}
        assert self.passes(limit, "a") is None
        assert metrics.log_lines_left_out.values == {("a",): 31}

    def test_actions_do_not_take_each_others_lines(self, limit):
        for _ in range(BURST + 1):
            self.passes(limit, "a")
        assert self.passes(limit, "b") == {"event": "b"}

    def test_in_the_long_run(self, limit):
        shown = 0
        for _ in range(10_000):
            self.now += 0.001
            shown += self.passes(limit, "a") is not None
        assert shown == pytest.approx(BURST + 10 * LINES_PER_SECOND, abs=2)

    def test_a_pause_saves_no_more_than_the_burst(self, limit):
        self.passes(limit, "a")
        self.now += 3_600
        assert sum(self.passes(limit, "a") is not None for _ in range(BURST * 2)) == BURST

    @pytest.mark.parametrize("method", ["error", "critical", "exception"])
    def test_errors_are_always_shown(self, limit, method):
        assert all(self.passes(limit, "a", method) for _ in range(BURST * 2))

    def test_it_is_in_place(self, configured, metrics):
        written = configured()
        for _ in range(BURST + 50):
            structlog.get_logger().info("flood")
        shown = len(entries(written()))
        assert BURST <= shown < BURST + 50
        assert metrics.log_lines_left_out.total == BURST + 50 - shown


def test_quiet_commands_warn_on_standard_error(configured, monkeypatch):
    configured()
    output = Output()
    monkeypatch.setattr(sys, "stderr", output)
    logs.configure_quiet()
    log = structlog.get_logger(role="ingest")
    log.info("chatter")
    log.warning("nats.unreachable", detail="refused")
    assert re.fullmatch(r"\S+ warning +ingest +nats\.unreachable +detail=refused\n", output.getvalue().decode())


class TestLevel:
    def test_it_changes_for_everybody_while_the_process_runs(self, configured):
        written = configured()
        lazy = structlog.get_logger(role="ingest")
        bound = structlog.get_logger().bind(role="analysis")

        def say(number):
            lazy.debug(f"lazy.{number}")
            bound.debug(f"bound.{number}")

        say(1)
        written.level.say_more()
        say(2)
        written.level.reset()
        say(3)
        actions = [(entry["action"], entry["level"]) for entry in entries(written())]
        assert actions == [
            ("log.level_changed", "info"),
            ("lazy.2", "debug"),
            ("bound.2", "debug"),
            ("log.level_changed", "info"),
        ]

    @pytest.mark.parametrize(
        ("level", "steps"), [("error", ["warning", "info", "debug", "debug"]), ("debug", ["debug"])]
    )
    def test_each_step_says_more_and_says_so(self, configured, level, steps):
        written = configured(level=level)
        for _ in steps:
            written.level.say_more()
        written.level.reset()
        assert written.level.level == level
        said = [entry["log_level"] for entry in entries(written())]
        assert said == [*steps, level]

    def test_exceptions_count_as_errors(self, configured):
        written = configured(level="error")
        structlog.get_logger().warning("a")
        structlog.get_logger().exception("b")
        assert [entry["action"] for entry in entries(written())] == ["b"]


class TestSecrets:
    @pytest.mark.parametrize("format_", ["json", "console"])
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("postgresql://iot:s3cr3t-word@db/iot is away", "postgresql://iot:***@db/iot is away"),
            ("nats://platform:s3cr3t-word@a:4222,b:4222", "nats://platform:***@a:4222,b:4222"),
            ("redis://:s3cr3t-word@host:6379/0", "redis://:***@host:6379/0"),
            ("Authorization: Bearer s3cr3t-word", "Authorization: Bearer ***"),
            ("Token s3cr3t-word", "Token ***"),
            ("token eyJhbGciOiJFUzI1NiJ9.eyJvcmciOiJhIn0.s3cr3t-word", "token ***"),
            (f"{SETUP_TOKEN_PREFIX}s3cr3t-word", "***"),
            (f"{API_KEY_PREFIX}s3cr3t-word", "***"),
        ],
    )
    def test_what_looks_like_a_credential_is_hidden(self, configured, format_, text, shown):
        written = configured(format_)
        structlog.get_logger(role="ingest").warning("server.waiting", detail=text)
        logging.getLogger("library").warning("%s", text)
        try:
            raise ValueError(text)
        except ValueError:
            structlog.get_logger().exception("role.failed")
        line = written()
        assert "s3cr3t" not in line
        assert line.count(shown) >= 3

    @pytest.mark.parametrize(
        "text", ["http://127.0.0.1:8080/ingest", "iotplatform at iot/a/b/telemetry", "user@example.org", "a token"]
    )
    def test_everything_else_stays(self, configured, text):
        written = configured()
        structlog.get_logger().info("a", detail=text)
        assert entries(written())[0]["detail"] == text

    @given(st.binary(max_size=200))
    def test_a_line_stays_a_line(self, line):
        hidden = hide_secrets(line)
        assert hide_secrets(hidden) == hidden or b"***" in hidden
        assert hidden.count(b"\n") <= line.count(b"\n")
