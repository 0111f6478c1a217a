"""The command as a person meets it: arguments in, exit code, stdout and stderr out."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path

import pytest
from aiohttp.test_utils import unused_port

from iotplatform.cli import simulate

NAB = Path(__file__).parents[2] / "data" / "nab" / "machine_temperature_system_failure.csv"


def parse(*words):
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config")
    common.add_argument("--data-dir")
    parser = argparse.ArgumentParser(prog="iotplatform")
    simulate.add_parser(parser.add_subparsers(), common)
    return parser.parse_args(["simulate", *map(str, words)])


@pytest.fixture
def command(platform):
    """Runs the command in a thread, since it brings an event loop of its own."""

    async def run(*words):
        arguments = parse("--url", platform.url, "--management-url", platform.url, *words)
        return await asyncio.to_thread(arguments.run, arguments)

    return run


@pytest.fixture
def small_csv(tmp_path):
    path = tmp_path / "small.csv"
    path.write_text("".join(f"{1386018900 + n},{n}\n" for n in range(10)))
    return path


async def test_a_file_is_replayed_as_one_device_in_its_order(platform, command, capsys):
    assert await command("--csv", NAB) == 0
    rows = [line.split(",") for line in NAB.read_text().splitlines()[1:]]
    assert [(reading["timestamp"], reading["value"]) for reading in platform.readings()] == [
        (time.replace(" ", "T") + "Z", float(value)) for time, value in rows
    ]
    owners = {(r["organization_id"], r["device_id"], r["sensor_name"]) for r in platform.readings()}
    assert owners == {("lab", "machine", "temperature")}
    assert [len(batch) for batch in platform.batches] == [500] * 45 + [195]
    assert platform.most_in_flight == 1
    assert platform.created == [{"id": "lab", "name": "lab"}]
    out, err = capsys.readouterr()
    assert "readings sent: 22695\nreadings accepted: 22695\n" in out
    assert "requests: 46\n" in out
    assert "p50" in out
    assert err.startswith("22695 readings accepted in ")


async def test_options_reach_the_platform(platform, command, small_csv):
    names = ("--organization", "acme", "--device", "press", "--sensor", "oil temp")
    assert await command("--csv", small_csv, "--batch", 4, "--token", "t0ken", "--rate", 1e6, *names) == 0
    assert {tuple(r.values())[:3] for r in platform.readings()} == {("acme", "press", "oil temp")}
    assert max(map(len, platform.batches)) <= 4
    assert [reading["value"] for reading in platform.readings()] == list(range(10))
    assert set(platform.authorizations) == {"Bearer t0ken"}


async def test_a_refused_batch_is_the_last_one(platform, command, small_csv, problem, capsys):
    refusal = problem(422, "a reading lies in the future", errors=[{"index": 1, "field": "timestamp", "detail": "no"}])
    platform.answers = [None, refusal]
    assert await command("--csv", small_csv, "--batch", 3) == 1
    assert len(platform.batches) == 2
    out, err = capsys.readouterr()
    [line] = err.splitlines()
    assert "a reading lies in the future (reading 1 of the batch, timestamp: no)" in line
    assert "readings accepted: 3\n" in out
    assert "readings never confirmed: 3" in out


async def test_a_fleet_that_is_refused_says_so_once(platform, command, problem, capsys):
    platform.answers = [problem(401, "no credential") for _ in range(10)]
    assert await command("--rate", 1000, "--duration", 0.05) == 1
    out, err = capsys.readouterr()
    [line] = err.splitlines()
    assert "401 Unauthorized: no credential" in line
    assert out == ""


async def test_a_malformed_file_is_refused_before_anything_is_sent(platform, command, small_csv, capsys):
    small_csv.write_text(small_csv.read_text() + "1386018999,hot\n")
    assert await command("--csv", small_csv, "--batch", 1) == 2
    assert platform.batches == platform.created == []
    assert platform.management_requests == 0
    [line] = capsys.readouterr().err.splitlines()
    assert "small.csv, line 11: the value 'hot' is not a finite number" in line


async def test_a_missing_file_is_a_usage_error(platform, command, tmp_path, capsys):
    assert await command("--csv", tmp_path / "absent.csv") == 2
    assert "absent.csv" in capsys.readouterr().err


async def test_the_platform_is_found_by_what_it_wrote_down(platform, tmp_path, small_csv, monkeypatch):
    (tmp_path / "runtime.json").write_text(json.dumps({"ingest": platform.url, "management": platform.url}))
    arguments = parse("--csv", small_csv, "--data-dir", tmp_path)
    assert await asyncio.to_thread(arguments.run, arguments) == 0
    monkeypatch.setenv("IOTPLATFORM_DATA_DIR", str(tmp_path))
    arguments = parse("--csv", small_csv)
    assert await asyncio.to_thread(arguments.run, arguments) == 0
    assert len(platform.readings()) == 20


def test_a_broken_record_of_the_platform_is_bad_configuration(tmp_path, small_csv, capsys):
    (tmp_path / "runtime.json").write_text("{")
    arguments = parse("--csv", small_csv, "--data-dir", tmp_path)
    assert arguments.run(arguments) == 78
    [line] = capsys.readouterr().err.splitlines()
    assert "runtime.json" in line


def test_no_platform_is_one_clear_line(small_csv, capsys):
    url = f"http://127.0.0.1:{unused_port()}"
    arguments = parse("--csv", small_csv, "--url", url, "--management-url", url)
    assert arguments.run(arguments) == 1
    out, err = capsys.readouterr()
    [line] = err.splitlines()
    assert "is the platform running? `make run` starts it" in line
    assert out == ""


@pytest.mark.parametrize("url", ["http://127.0.0.1:1883", "mqtt://", "mqtt://h:0", "mqtt://h/path"])
def test_an_address_that_is_none_of_mqtt_is_refused(url, capsys):
    with pytest.raises(SystemExit):
        parse("--protocol", "mqtt", "--mqtt-url", url)
    assert "not an address such as mqtt://127.0.0.1:1883" in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--devices", 2), ("--duration", 1), ("--seed", 1)])
def test_options_of_a_fleet_are_not_for_a_file(small_csv, option, capsys):
    arguments = parse("--csv", small_csv, *option)
    assert arguments.run(arguments) == 2
    assert option[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("--rate", "0"),
        ("--rate", "nan"),
        ("--devices", "-1"),
        ("--devices", "1.5"),
        ("--batch", "0"),
        ("--duration", "soon"),
        ("--organization", "a.b"),
        ("--device", ""),
        ("--token", "a b"),
        ("--url", "127.0.0.1:8080"),
        ("--url", "http://u:p@h"),
        ("--url", "http://h:port"),
        ("--protocol", "coap"),
    ],
)
def test_nonsense_is_a_usage_error(words, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(*words)
    assert ended.value.code == 2
    assert words[0] in capsys.readouterr().err


@pytest.mark.parametrize("csv", [False, True])
async def test_ctrl_c_ends_with_the_summary(platform, small_csv, csv):
    # A process of its own, because a signal goes to a process; it takes back SIGINT in case the tests run without it.
    program = (
        "import argparse, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from iotplatform.cli import simulate\n"
        "parser = argparse.ArgumentParser()\n"
        "simulate.add_parser(parser.add_subparsers(), argparse.ArgumentParser(add_help=False))\n"
        "arguments = parser.parse_args()\n"
        "arguments.data_dir = arguments.config = None\n"
        "sys.exit(arguments.run(arguments))\n"
    )
    where = ("--url", platform.url, "--management-url", platform.url)
    what = ("--csv", str(small_csv)) if csv else ("--devices", "1", "--rate", "1000")
    platform.gate.clear()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", program, "simulate", *where, *what),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    await platform.asked.wait()
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert process.returncode == (1 if csv else 0)
    assert b"readings accepted: 0\n" in out
    assert b"readings never confirmed: " in out
    assert b"Traceback" not in err
    assert (b"interrupted after 0 of 10 readings" in err) is csv
