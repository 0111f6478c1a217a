-- Run once, when the demo's database is made. `iotplatform migrate` gives iotplatform_boards the columns that the boards
-- need, the view telemetry among them, and nothing else.
CREATE ROLE iotplatform_boards NOLOGIN;
CREATE ROLE grafana LOGIN PASSWORD 'demo-grafana' IN ROLE iotplatform_boards;
ALTER ROLE grafana SET default_transaction_read_only = on;
ALTER ROLE grafana SET statement_timeout = '30s';
