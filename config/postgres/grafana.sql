-- Run once, when the demo's database is made. pg_read_all_data reads every table, hashes of passwords included: where others
-- than the operators use Grafana, grant the tables of docs/observability.md instead.
CREATE ROLE grafana LOGIN PASSWORD 'demo-grafana';
GRANT pg_read_all_data TO grafana;
ALTER ROLE grafana SET default_transaction_read_only = on;
ALTER ROLE grafana SET statement_timeout = '30s';
