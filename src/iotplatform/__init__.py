"""Telemetry, alarms and history for a fleet of devices, on your own machine."""

from typing import Final

__version__: Final = "0.1.0"
