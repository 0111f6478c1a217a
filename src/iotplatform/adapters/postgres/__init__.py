"""PostgreSQL: everything management owns, alarm history, the ledger, and readings where no InfluxDB is set."""
