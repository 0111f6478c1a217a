"""The conditions a rule can have: a file each, and a row in this table."""

from __future__ import annotations

from iotplatform.domain.conditions.m_of_n import MOfN
from iotplatform.domain.conditions.no_data import NoData
from iotplatform.domain.conditions.rate import Rate
from iotplatform.domain.conditions.threshold import Threshold

Condition = Threshold | Rate | MOfN | NoData

__all__ = ["Condition", "MOfN", "NoData", "Rate", "Threshold"]
