"""Readings in InfluxDB: lines out over HTTP, InfluxQL back."""
