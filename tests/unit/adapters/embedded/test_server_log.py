import os

from iotplatform.adapters.embedded import server_log


def test_is_appended_to(tmp_path):
    log = tmp_path / "nats.log"
    for text in (b"one\n", b"two\n"):
        descriptor = server_log.open_log(log)
        os.write(descriptor, text)
        os.close(descriptor)
    assert log.read_text() == "one\ntwo\n"
    assert server_log.last_words(log) == "two"


def test_begins_anew_when_it_is_long_also_under_a_server_that_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(server_log, "LONGEST_LOG", 10)
    log = tmp_path / "nats.log"
    descriptor = server_log.open_log(log)
    os.write(descriptor, b"more than ten bytes\n")
    server_log.keep_bounded(log)
    os.write(descriptor, b"next\n")
    os.close(descriptor)
    assert log.read_text() == "next\n"
    assert (tmp_path / "nats.log.1").read_text() == "more than ten bytes\n"


def test_no_log_has_no_last_words(tmp_path):
    assert server_log.last_words(tmp_path / "none.log") == ""
