"""Analysis: readings to breaches, breaches to alarms."""
