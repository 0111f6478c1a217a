"""Where settings come from, and which one wins."""

from __future__ import annotations

import re

import msgspec
import pytest

from iotplatform.app.settings import Settings
from iotplatform.app.settings_sections import DefaultRule
from iotplatform.app.settings_source import load_settings
from iotplatform.errors import ConfigError


@pytest.fixture
def write(tmp_path):
    def make(text, name="settings.toml"):
        file = tmp_path / name
        file.write_text(text)
        return str(file)

    return make


def load(file=None, *, data_dir=None, roles=None, **environment):
    named = {f"IOTPLATFORM_{name.upper()}": value for name, value in environment.items()}
    return load_settings(file, named, data_dir=data_dir, roles=roles)


def problem(*arguments, **options):
    with pytest.raises(ConfigError) as caught:
        load(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_defaults_are_those_of_the_contract():
    settings = load()
    assert settings.data_dir == ".iotplatform"
    assert settings.roles == "management,ingest,analysis,notification,persistence"
    assert (settings.ingest.host, settings.ingest.port) == ("127.0.0.1", 8080)
    assert (settings.management.host, settings.management.port) == ("127.0.0.1", 8081)
    assert (settings.operations.host, settings.operations.port) == ("127.0.0.1", 9464)
    assert (settings.nats.url, settings.postgres.url, settings.redis.url) == (None, None, None)
    assert (settings.nats.replicas, settings.streams.keep_s, settings.streams.max_bytes) == (1, 3_600, 1 << 30)
    assert (settings.embedded.nats_sync, settings.embedded.host) == ("always", "127.0.0.1")
    ports = settings.embedded.nats_port, settings.embedded.nats_monitor_port, settings.embedded.mqtt_port
    assert ports == (4222, 8222, 1883)
    assert settings.auth.mode == "auto"
    rule = settings.analysis.default_rule
    assert rule == DefaultRule("temp*", ">", 80.0, "major", 3, 1)
    assert (settings.log.format, settings.log.level) == (None, "info")


class TestPrecedence:
    def test_the_environment_wins_over_the_file(self, write):
        file = write('[ingest]\nport = 1\nhost = "127.0.0.2"\n[streams]\nkeep_s = 5\n')
        settings = load(file, ingest__port="2")
        assert (settings.ingest.port, settings.ingest.host, settings.streams.keep_s) == (2, "127.0.0.2", 5)

    def test_an_empty_variable_counts_as_not_set(self, write, tmp_path):
        """One compose file can only empty what another one sets, such as a password that now comes from a file."""
        secret = tmp_path / "url"
        secret.write_text("nats://real@nats:4222\n")
        assert load(nats__url="", nats__url_file=str(secret)).nats.url == "nats://real@nats:4222"
        assert load(write("[ingest]\nport = 1\n"), ingest__port="").ingest.port == 1

    def test_arguments_win_over_both(self, write):
        file = write('data_dir = "file"\nroles = "ingest"\n')
        environment = {"data_dir": "environment", "roles": "analysis"}
        settings = load_settings(
            file,
            {f"IOTPLATFORM_{name.upper()}": value for name, value in environment.items()},
            data_dir="argument",
            roles="management",
        )
        assert (settings.data_dir, settings.roles) == ("argument", "management")
        assert load(file).data_dir == "file"
        assert load_settings(file, {"IOTPLATFORM_DATA_DIR": "environment"}).data_dir == "environment"

    def test_one_key_of_a_section_leaves_the_others_at_their_defaults(self, write):
        assert load(ingest__host="127.0.0.2").ingest.port == 8080
        assert load(management__host="127.0.0.2").management.port == 8081
        assert load(operations__host="127.0.0.2").operations.port == 9464
        assert load(write("[analysis.default_rule]\nvalue = 5\n")).analysis.default_rule == DefaultRule(value=5.0)

    def test_keys_two_sections_deep(self):
        assert load(analysis__default_rule__raise_after="7").analysis.default_rule.raise_after == 7

    def test_other_variables_are_none_of_ours(self):
        assert load_settings(None, {"PATH": "x", "IOTPLATFORMS_X": "y", "iotplatform_roles": "z"}) == load()


class TestTypes:
    def test_text_from_the_environment_becomes_what_the_setting_is(self):
        settings = load(
            ingest__port="0",
            streams__keep_s="1.5",
            streams__max_bytes="2000000",
            analysis__default_rule__value="-3",
            auth__allowed_hosts="a.example, b.example,",
        )
        assert settings.ingest.port == 0
        assert settings.streams.keep_s == 1.5
        assert settings.streams.max_bytes == 2_000_000
        assert settings.analysis.default_rule.value == -3.0
        assert settings.auth.allowed_hosts == ["a.example", "b.example"]

    @pytest.mark.parametrize(
        ("name", "value", "setting"),
        [
            ("ingest__port", "http", "ingest.port"),
            ("ingest__port", "65536", "ingest.port"),
            ("ingest__port", "-1", "ingest.port"),
            ("nats__replicas", "0", "nats.replicas"),
            ("streams__keep_s", "-1", "streams.keep_s"),
            ("streams__keep_s", "nan", "streams.keep_s"),
            ("streams__keep_s", "inf", "streams.keep_s"),
            ("streams__max_bytes", "10", "streams.max_bytes"),
            ("streams__max_bytes", "9223372036854775808", "streams.max_bytes"),
            ("log__level", "loud", "log.level"),
            ("log__format", "xml", "log.format"),
            ("auth__mode", "closed", "auth.mode"),
            ("analysis__default_rule__operator", "=>", "analysis.default_rule.operator"),
            ("analysis__default_rule__raise_after", "0", "analysis.default_rule.raise_after"),
            ("ingest", "8080", "IOTPLATFORM_INGEST"),
            ("analysis__default_rule", "temp", "analysis.default_rule"),
            ("embedded__nats_sync", "sometimes", "embedded.nats_sync"),
        ],
    )
    def test_a_wrong_value_names_its_setting(self, name, value, setting):
        assert setting in problem(**{name: value})


class TestUnknownKeys:
    @pytest.mark.parametrize(
        ("text", "setting"),
        [
            ("prot = 5", "prot"),
            ("[ingest]\nprot = 5", "ingest.prot"),
            ("[injest]\nport = 5", "injest"),
            ("[analysis.default_rule]\nvalu = 5", "analysis.default_rule.valu"),
            ("[mail]\nsender = 'a@example.com'", "mail.sender"),
        ],
    )
    def test_in_the_file(self, write, text, setting):
        message = problem(write(text))
        assert message.startswith(f"{setting}: unknown setting")

    @pytest.mark.parametrize(
        ("name", "setting"),
        [
            ("ingest__prot", "ingest.prot"),
            ("inject__port", "inject"),
            ("ingest_port", "IOTPLATFORM_INGEST_PORT"),
            ("roels", "IOTPLATFORM_ROELS"),
            ("ingest__port__x", "port"),
            ("__port", "IOTPLATFORM___PORT"),
            ("ingest__", "IOTPLATFORM_INGEST__"),
        ],
    )
    def test_in_the_environment(self, write, name, setting):
        assert setting in problem(write("[ingest]\nport = 1\n"), **{name: "5"})


class TestValueFiles:
    """`<name>_file`: how containers hand over secrets."""

    def test_in_the_file_and_in_the_environment(self, write):
        secret = write("redis://:secret@example:6379\n", "secret")
        assert load(write(f'[redis]\nurl_file = "{secret}"\n')).redis.url == "redis://:secret@example:6379"
        assert load(redis__url_file=secret).redis.url == "redis://:secret@example:6379"

    def test_what_is_named_otherwise_in_the_file(self, write):
        sender = write("alarms@example.com\n", "sender")
        assert load(mail__from_file=sender).mail.sender == "alarms@example.com"

    def test_deep_inside(self, write):
        assert load(analysis__default_rule__value_file=write("12.5", "value")).analysis.default_rule.value == 12.5

    def test_a_file_that_is_not_there(self, tmp_path):
        message = problem(redis__url_file=str(tmp_path / "nothing"))
        assert "redis.url_file" in message
        assert "nothing" in message

    def test_a_file_that_holds_no_text(self, tmp_path):
        (tmp_path / "binary").write_bytes(b"\xff\xfe")
        assert "redis.url_file" in problem(redis__url_file=str(tmp_path / "binary"))

    def test_the_value_and_the_file_at_once(self, write):
        secret = write("redis://a", "secret")
        assert "redis.url_file" in problem(redis__url_file=secret, redis__url="redis://b")

    def test_only_for_settings_that_exist(self, write):
        assert "redis.uri_file" in problem(redis__uri_file=write("x", "secret"))


class TestTheFile:
    def test_that_is_not_there(self, tmp_path):
        assert "settings.toml" in problem(str(tmp_path / "settings.toml"))

    def test_that_is_a_directory(self, tmp_path):
        assert str(tmp_path) in problem(str(tmp_path))

    def test_that_is_not_toml(self, write):
        assert "is not TOML" in problem(write("[ingest\nport = 1"))

    def test_that_is_no_text(self, tmp_path):
        (tmp_path / "settings.toml").write_bytes(b"\xff\xfe\x00")
        assert "is not TOML" in problem(str(tmp_path / "settings.toml"))

    @pytest.mark.parametrize("text", ["ingest = 5", "ingest = [1]", "analysis = {default_rule = 5}"])
    def test_a_section_that_is_none(self, write, text):
        problem(write(text))
        problem(write(text), ingest__port="1")

    def test_the_example_changes_nothing(self, repository):
        assert load(str(repository / "config" / "example.toml")) == load()

    def test_the_example_shows_every_setting_and_no_other(self, repository):
        section, shown = "", set()
        for line in (repository / "config" / "example.toml").read_text().splitlines():
            if header := re.match(r"\[([a-z._]+)\]", line):
                section = f"{header[1]}."
            elif key := re.match(r"(?:# )?([a-z_]+) = ", line):
                shown.add(section + key[1].removesuffix("_file"))
        assert shown == set(keys_of(Settings))


def keys_of(struct, where=""):
    for field in msgspec.structs.fields(struct):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            yield from keys_of(field.type, f"{where}{field.encode_name}.")
        else:
            yield where + field.encode_name
