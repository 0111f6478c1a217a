"""`/organizations/{org}/ledger`."""

from __future__ import annotations

from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath

from iotplatform.domain.ledger import LedgerEntry
from iotplatform.roles.management.access import READ
from iotplatform.roles.management.context import ManagementContext


@get("/organizations/{org:str}/ledger", opt=READ)
async def read_ledger(org: FromPath[str], context: NamedDependency[ManagementContext]) -> LedgerEntry:
    return await context.ledger(await context.organization(org))
