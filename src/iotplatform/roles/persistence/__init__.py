"""Persistence: readings to the store, alarms to their history, and the latest value of each series."""
