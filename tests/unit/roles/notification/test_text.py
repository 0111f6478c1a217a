from __future__ import annotations

import pytest

from iotplatform.roles.notification.text import MAX_SUBJECT, body_of, compose, subject_of


def test_a_raised_alarm(raised):
    assert subject_of(raised()) == "Alarm raised: temp1 of machine-123 is > 80 (major, orgA)"
    assert body_of(raised()) == (
        "Alarm raised: temp1 of machine-123 is > 80.\n"
        "\n"
        "Organization: orgA\n"
        "Device:       machine-123\n"
        "Sensor:       temp1\n"
        "Rule:         Temperature (default)\n"
        "Condition:    > 80\n"
        "Severity:     major\n"
        "Raised at:    1970-01-01T00:00:01.000000Z\n"
        "First breach: 2023-01-01T00:00:00.000000Z\n"
        "Value:        90\n"
        "Alarm:        8f14e45f-ceea-867a-9e1b-000000000001\n"
        "\n"
        "The readings that raised it:\n"
        "  2023-01-01T00:00:00.000000Z  85\n"
        "  1970-01-01T00:00:01.000000Z  90\n"
        "  1970-01-01T00:00:01.000000Z  90.5\n"
    )


def test_a_cleared_alarm(cleared):
    assert subject_of(cleared()) == "Alarm cleared: temp1 of machine-123 is no longer > 80 (major, orgA)"
    body = body_of(cleared())
    assert "Cleared at:   1970-01-01T00:00:02.000000Z\n" in body
    assert "Value:        70.25\n" in body
    assert "readings" not in body


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029"])
def test_no_name_starts_a_line(raised, end):
    honest = body_of(raised())
    forged = f"x{end}Severity:     info{end}"
    hostile = raised(device_id=forged, sensor=forged, rule_name=forged, rule_id=forged, condition=forged)
    body = body_of(hostile)
    assert len(body.splitlines()) == len(honest.splitlines())
    assert [line for line in body.splitlines() if line.startswith("Severity:")] == ["Severity:     major"]
    assert len(subject_of(hostile).splitlines()) == 1


def test_other_scripts_are_left_as_they_are(raised):
    body = body_of(raised(sensor="温度 Süd"))
    assert "Sensor:       温度 Süd\n" in body


def test_marks_that_turn_the_writing_around_are_taken_out(raised):
    assert "\u202e" not in subject_of(raised(sensor="a\u202eb")) + body_of(raised(sensor="a\u202eb"))


def test_long_names_are_cut_in_the_subject_only(raised):
    alarm = raised(sensor="s" * 512, rule_name="r" * 10_000)
    assert len(subject_of(alarm)) <= MAX_SUBJECT
    assert f"Sensor:       {'s' * 512}\n" in body_of(alarm)
    assert len(body_of(alarm)) < 3_000


def test_the_same_mail_every_time(raised):
    first = compose(raised(), "ops", ("a@example.com",), 5)
    assert first == compose(raised(), "ops", ("a@example.com",), 5)
    assert first.message_id.endswith("@iotplatform>")
    assert first.answers is None


def test_message_ids_differ_by_alarm_transition_and_channel(raised, cleared):
    mails = [
        compose(raised(), "ops", (), 5),
        compose(raised(alarm_id="8f14e45f-ceea-867a-9e1b-000000000002"), "ops", (), 5),
        compose(raised(), "boss", (), 5),
        compose(cleared(), "ops", (), 5),
    ]
    assert len({mail.message_id for mail in mails}) == 4


def test_a_clear_answers_its_raise(raised, cleared):
    assert compose(cleared(), "ops", (), 9).answers == compose(raised(), "ops", (), 5).message_id


@pytest.mark.parametrize(
    ("reason", "words"),
    [("manual", "hand, of ann"), ("rule_deleted", "deleting the rule"), ("device_deleted", "deleting the device")],
)
def test_an_alarm_that_no_reading_cleared(cleared, reason, words):
    body = body_of(cleared(value=None, reason=reason, by="ann"))
    assert f"Cleared by:   {words}\n" in body
    assert "Value:" not in body
