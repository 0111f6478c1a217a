"""Notification: a transition of an alarm becomes a delivery for each channel, and is delivered until it has arrived."""
