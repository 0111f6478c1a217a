"""What a type can't say about settings."""

from __future__ import annotations

import pytest

from iotplatform.app.settings import ROLES, Settings, is_loopback, parse_roles
from iotplatform.app.settings_sections import (
    Analysis,
    Auth,
    DefaultRule,
    Embedded,
    Influx,
    Listener,
    Mail,
    Nats,
    Server,
    Tls,
)
from iotplatform.domain.rule import Rule, Threshold
from iotplatform.errors import ConfigError


def problem(**settings):
    with pytest.raises(ConfigError) as caught:
        Settings(**settings).check()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_defaults_are_right():
    Settings().check()


class TestUrls:
    @pytest.mark.parametrize(
        "settings",
        [
            {"nats": Nats(url="nats://localhost:4222")},
            {"nats": Nats(url="nats://user:pass@a:4222,b:4222,[::1]:4222")},
            {"nats": Nats(url="tls://a")},
            {"postgres": Server(url="postgresql://user:pass@host/db")},
            {"postgres": Server(url="postgresql://user:p%40ss@host:5432/db?sslmode=require")},
            {"postgres": Server(url="postgresql://iotplatform@/iotplatform?host=/run/socket")},
            {"postgres": Server(url="postgres://host/db")},
            {"redis": Server(url="redis://:secret@host:6379/0")},
            {"redis": Server(url="rediss://host")},
            {"redis": Server(url="unix:///run/redis.sock")},
        ],
    )
    def test_right_ones(self, settings):
        Settings(**settings).check()

    @pytest.mark.parametrize(
        ("name", "url"),
        [
            ("nats", ""),
            ("nats", "localhost:4222"),
            ("nats", "localhost"),
            ("nats", "http://localhost:4222"),
            ("nats", "nats://"),
            ("nats", "nats://a:port"),
            ("nats", "nats://a:4222,b:99999"),
            ("nats", "nats://[::1"),
            ("postgres", "mysql://host/db"),
            ("postgres", "postgresql+asyncpg://host/db"),
            ("postgres", "postgresql:///db"),
            ("postgres", "postgresql://host:0/db"),
            ("redis", "http://host"),
            ("redis", "redis://"),
            ("redis", "unix://"),
        ],
    )
    def test_wrong_ones_name_their_setting(self, name, url):
        section = Nats if name == "nats" else Server
        assert problem(**{name: section(url=url)}).startswith(f"{name}.url: ")

    def test_no_password_is_shown(self):
        assert "s3cret" not in problem(nats=Nats(url="nats://user:s3cret@a:port"))
        assert "s3cret" not in problem(redis=Server(url="http://user:s3cret@a"))
        assert "s3cret" not in problem(mail=Mail(url="http://user:s3cret@a", sender="a@example.com"))


class TestLoopback:
    """Other machines get in with a credential only, unless somebody has written otherwise."""

    @pytest.mark.parametrize("section", ["ingest", "management", "embedded"])
    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com", "fe80::1", "128.0.0.1"])
    def test_a_listener_that_others_can_reach_needs_credentials(self, section, host):
        made = Embedded(host=host) if section == "embedded" else Listener(0, host)
        settings = Settings(**{section: made})
        settings.check()
        assert settings.auth_required
        assert settings.exposed == f"{section}.host"

    def test_required_written_out_needs_no_such_listener(self):
        assert Settings(auth=Auth(mode="required")).auth_required
        assert not Settings().auth_required

    @pytest.mark.parametrize("section", ["ingest", "management", "embedded"])
    def test_open_written_out_lets_everybody_in(self, section):
        made = Embedded(host="0.0.0.0") if section == "embedded" else Listener(0, "0.0.0.0")
        settings = Settings(auth=Auth(mode="open"), **{section: made})
        settings.check()
        assert not settings.auth_required

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
    def test_loopback_needs_nothing(self, host):
        assert is_loopback(host)
        Settings(ingest=Listener(0, host), management=Listener(0, host), embedded=Embedded(host=host)).check()

    def test_the_operations_port_has_no_data_of_tenants(self):
        Settings(operations=Listener(0, "0.0.0.0")).check()


class TestPorts:
    def test_two_listeners_on_one_port(self):
        message = problem(ingest=Listener(8081))
        assert "ingest.port" in message
        assert "management.port" in message

    def test_free_ports_are_not_the_same(self):
        Settings(ingest=Listener(0), management=Listener(0), operations=Listener(0)).check()

    def test_the_ports_of_the_embedded_nats(self):
        assert "embedded.nats_port" in problem(embedded=Embedded(nats_port=8222))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"analysis": Analysis(DefaultRule(value=float("nan")))}, "analysis.default_rule.value"),
        ({"analysis": Analysis(DefaultRule(value=float("inf")))}, "analysis.default_rule.value"),
        ({"analysis": Analysis(DefaultRule(sensor=""))}, "analysis.default_rule.sensor"),
        ({"analysis": Analysis(DefaultRule(sensor="a\nb"))}, "analysis.default_rule.sensor"),
        ({"nats": Nats(replicas=3)}, "nats.replicas"),
    ],
)
def test_what_could_never_work_is_refused(settings, name):
    assert problem(**settings).startswith(f"{name}: ")


def test_several_copies_on_a_cluster_of_ones_own():
    Settings(nats=Nats(url="nats://a,b,c", replicas=3)).check()


def test_an_empty_name_is_not_the_current_directory():
    assert problem(data_dir="").startswith("data_dir ")


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"influx": Influx(url="ftp://localhost:8086", bucket="b")}, "influx.url"),
        ({"influx": Influx(url="http://token@localhost:8086", bucket="b")}, "influx.url"),
        ({"influx": Influx(url="http://localhost:8086")}, "influx.bucket"),
        ({"tls": Tls(cert="cert.pem")}, "tls.key"),
        ({"tls": Tls(key="key.pem")}, "tls.cert"),
        ({"tls": Tls(cert="cert.pem", key="-----BEGIN PRIVATE KEY-----")}, "tls.key"),
        ({"tls": Tls(cert="", key="key.pem")}, "tls.cert"),
        ({"mail": Mail(url="smtp://localhost")}, "mail.from"),
        ({"mail": Mail(sender="nobody")}, "mail.from"),
    ],
)
def test_what_would_be_ignored_is_refused(settings, name):
    assert problem(**settings).startswith(f"{name}: ")


class TestRoles:
    def test_a_list(self):
        assert parse_roles("ingest") == {"ingest"}
        assert parse_roles(" ingest , analysis,,ingest ") == {"ingest", "analysis"}
        assert parse_roles(Settings().roles) == set(ROLES)

    @pytest.mark.parametrize("text", ["ingestion", "ingest,all", "Ingest", "ingest analysis", "", " , "])
    def test_an_unknown_one_lists_them_all(self, text):
        with pytest.raises(ValueError, match="management, ingest, analysis, notification, persistence"):
            parse_roles(text)


def test_the_default_rule_of_a_new_organization():
    assert DefaultRule(value=75.0, clear_after=2).rule_of("orgA") == Rule(
        id="default",
        organization_id="orgA",
        name="Default rule",
        sensor="temp*",
        condition=Threshold(">", 75.0),
        severity="major",
        enabled=True,
        raise_after=3,
        clear_after=2,
    )


class TestCertificatesForNats:
    def test_right_ones(self):
        files = {"ca": "/a/ca.pem", "cert": "/a/cert.pem", "key": "/a/key.pem"}
        tls = Nats(url="tls://a:4222,b:4222", **files).tls
        assert {name: str(getattr(tls, name)) for name in files} == files
        assert Nats(url="tls://a").tls is None

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"url": "nats://a", "ca": "/a/ca.pem"}, "nats.ca: goes with a nats.url that begins with tls://"),
            ({"ca": "/a/ca.pem"}, "nats.ca: goes with a nats.url"),
            ({"url": "tls://a", "cert": "/a/cert.pem"}, "nats.cert, nats.key: are given together"),
            ({"url": "tls://a", "key": "/a/key.pem"}, "nats.cert, nats.key: are given together"),
            ({"url": "tls://a", "ca": "-----BEGIN CERTIFICATE-----"}, "nats.ca: must be the path"),
            ({"url": "tls://a", "ca": ""}, "nats.ca: must be the path"),
        ],
    )
    def test_wrong_ones(self, given, said):
        assert problem(nats=Nats(**given)).startswith(said)
