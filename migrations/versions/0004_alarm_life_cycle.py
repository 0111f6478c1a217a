"""The life of an alarm: its timeline, snoozing, reminders; maintenance windows; suppressed deliveries; secrets.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

UPGRADE = (
    """
    ALTER TABLE alarms
        ADD COLUMN latched boolean NOT NULL DEFAULT false,
        ADD COLUMN snoozed_until timestamptz,
        ADD COLUMN remind_at timestamptz,
        ADD COLUMN reminders integer NOT NULL DEFAULT 0
    """,
    "CREATE INDEX alarms_reminders ON alarms (remind_at) WHERE remind_at IS NOT NULL",
    # Who did what to an alarm, and when. `announce`: notification has still to make deliveries of it.
    """
    CREATE TABLE alarm_events (
        id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT alarm_events_pkey PRIMARY KEY,
        epoch bigint NOT NULL
            CONSTRAINT alarm_events_epoch_fkey REFERENCES organizations (epoch) ON DELETE CASCADE,
        alarm_id uuid NOT NULL,
        kind text NOT NULL,
        at timestamptz NOT NULL DEFAULT now(),
        who text,
        detail jsonb NOT NULL DEFAULT '{}',
        announce boolean NOT NULL DEFAULT false
    )
    """,
    "CREATE INDEX alarm_events_alarm ON alarm_events (alarm_id, id)",
    "CREATE INDEX alarm_events_epoch ON alarm_events (epoch)",
    "CREATE INDEX alarm_events_announce ON alarm_events (id) WHERE announce",
    # The past of the alarms that there are: what of it was written down.
    """
    INSERT INTO alarm_events (epoch, alarm_id, kind, at)
    SELECT epoch, id, 'raised', created_at FROM alarms ORDER BY created_at
    """,
    """
    CREATE TABLE maintenance_windows (
        epoch bigint NOT NULL
            CONSTRAINT maintenance_windows_epoch_fkey REFERENCES organizations (epoch) ON DELETE CASCADE,
        id text NOT NULL,
        name text NOT NULL,
        starts_at timestamptz NOT NULL,
        ends_at timestamptz NOT NULL,
        device_ids text[] NOT NULL DEFAULT '{}',
        device_tags text[] NOT NULL DEFAULT '{}',
        rule_ids text[] NOT NULL DEFAULT '{}',
        created_at timestamptz NOT NULL DEFAULT now(),
        created_by text NOT NULL,
        version integer NOT NULL DEFAULT 1,
        CONSTRAINT maintenance_windows_pkey PRIMARY KEY (epoch, id)
    )
    """,
    # Of one alarm there are many reminders. Code that knows nothing of numbers writes 0.
    "ALTER TABLE deliveries ADD COLUMN number integer NOT NULL DEFAULT 0",
    """
    ALTER TABLE deliveries
        DROP CONSTRAINT deliveries_alarm_id_transition_channel_id_key,
        ADD CONSTRAINT deliveries_what_key UNIQUE (alarm_id, transition, channel_id, number),
        DROP CONSTRAINT deliveries_state_check,
        ADD CONSTRAINT deliveries_state_check CHECK (state IN ('pending', 'sent', 'failed', 'suppressed'))
    """,
    "ALTER TABLE channels ADD COLUMN secrets text",
)

# How often the rule of this definition wants to be reminded; null: never.
REMINDER_INTERVAL = """
    CREATE FUNCTION reminder_interval(definition jsonb) RETURNS interval LANGUAGE sql IMMUTABLE AS $$
        SELECT CASE WHEN jsonb_typeof(definition -> 'reminder_s') = 'number' THEN
            make_interval(secs => least(greatest((definition ->> 'reminder_s')::double precision, 1), 315360000))
        END
    $$
"""

# Reminders that still wait for a channel which is away have lost their reason.
SUPPRESS_REMINDERS = """
    CREATE FUNCTION suppress_reminders(alarm uuid, reason text) RETURNS void LANGUAGE sql AS $$
        UPDATE deliveries
        SET state = 'suppressed', next_attempt_at = NULL, attempts = attempts || jsonb_build_array(jsonb_build_object(
            'at', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            'outcome', 'suppressed',
            'detail', reason
        ))
        WHERE alarm_id = alarm AND transition = 'reminder' AND state = 'pending'
    $$
"""

# Whoever writes an alarm, its timeline and its reminders follow, in the same transaction.
SCHEDULE_REMINDERS = """
    CREATE FUNCTION schedule_reminders() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.state = 'cleared' THEN
            NEW.remind_at := NULL;
        ELSIF TG_OP = 'INSERT' THEN
            NEW.remind_at := now() + (
                SELECT reminder_interval(definition) FROM rules WHERE epoch = NEW.epoch AND id = NEW.rule_id
            );
        END IF;
        RETURN NEW;
    END
    $$
"""

WRITE_TIMELINE = """
    CREATE FUNCTION write_timeline() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        hand text;
    BEGIN
        IF TG_OP = 'INSERT' THEN
            INSERT INTO alarm_events (epoch, alarm_id, kind) VALUES (NEW.epoch, NEW.id, 'raised');
        END IF;
        IF NEW.state = 'cleared' AND (TG_OP = 'INSERT' OR OLD.state <> 'cleared') THEN
            -- A clear by hand was asked for by somebody, and stands in the timeline already.
            IF NEW.clear_reason = 'manual' THEN
                SELECT e.who INTO hand FROM alarm_events e
                    WHERE e.alarm_id = NEW.id AND e.kind = 'clear_requested' ORDER BY e.id DESC LIMIT 1;
            END IF;
            INSERT INTO alarm_events (epoch, alarm_id, kind, who, detail) VALUES (
                NEW.epoch, NEW.id, 'cleared', hand,
                jsonb_strip_nulls(jsonb_build_object('reason', NEW.clear_reason))
            );
            IF NEW.reminders > 0 THEN
                PERFORM suppress_reminders(NEW.id, 'the alarm was cleared');
            END IF;
        END IF;
        RETURN NULL;
    END
    $$
"""

# A rule that was told to remind more often, or never again, says so to its alarms at once.
RESCHEDULE_REMINDERS = """
    CREATE FUNCTION reschedule_reminders() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        UPDATE alarms SET remind_at = greatest(now() + reminder_interval(NEW.definition), snoozed_until)
            WHERE epoch = NEW.epoch AND rule_id = NEW.id AND state = 'active' AND acknowledged_at IS NULL;
        RETURN NULL;
    END
    $$
"""

TRIGGERS = (
    """
    CREATE TRIGGER maintenance_windows_audited AFTER INSERT OR UPDATE OR DELETE ON maintenance_windows
        FOR EACH ROW EXECUTE FUNCTION record_audit('maintenance_window', 'id')
    """,
    """
    CREATE TRIGGER alarms_reminders BEFORE INSERT OR UPDATE OF state ON alarms
        FOR EACH ROW EXECUTE FUNCTION schedule_reminders()
    """,
    """
    CREATE TRIGGER alarms_timeline AFTER INSERT OR UPDATE OF state ON alarms
        FOR EACH ROW EXECUTE FUNCTION write_timeline()
    """,
    """
    CREATE TRIGGER rules_reminders AFTER UPDATE OF definition ON rules
        FOR EACH ROW
        WHEN (OLD.definition -> 'reminder_s' IS DISTINCT FROM NEW.definition -> 'reminder_s')
        EXECUTE FUNCTION reschedule_reminders()
    """,
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)
    for function in (REMINDER_INTERVAL, SUPPRESS_REMINDERS, SCHEDULE_REMINDERS, WRITE_TIMELINE, RESCHEDULE_REMINDERS):
        op.execute(function)
    for trigger in TRIGGERS:
        op.execute(trigger)


def downgrade() -> None:
    op.execute("DROP TRIGGER rules_reminders ON rules")
    op.execute("DROP TRIGGER alarms_timeline ON alarms")
    op.execute("DROP TRIGGER alarms_reminders ON alarms")
    op.execute(
        "DROP FUNCTION reschedule_reminders, write_timeline, schedule_reminders, suppress_reminders, reminder_interval"
    )
    op.execute("ALTER TABLE channels DROP COLUMN secrets")
    op.execute("DELETE FROM deliveries WHERE number > 0 OR state = 'suppressed'")
    op.execute(
        "ALTER TABLE deliveries DROP CONSTRAINT deliveries_what_key, "
        "ADD CONSTRAINT deliveries_alarm_id_transition_channel_id_key UNIQUE (alarm_id, transition, channel_id), "
        "DROP CONSTRAINT deliveries_state_check, "
        "ADD CONSTRAINT deliveries_state_check CHECK (state IN ('pending', 'sent', 'failed')), "
        "DROP COLUMN number"
    )
    op.execute("DROP TABLE maintenance_windows, alarm_events")
    for column in ("latched", "snoozed_until", "remind_at", "reminders"):
        op.execute(f"ALTER TABLE alarms DROP COLUMN {column}")
