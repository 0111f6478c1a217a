"""In which account of nats-server a device of NATS is: answers go to inboxes, and who is in an account may hear them.

A client makes up its inbox after it was let in, so no permission can name it. What keeps organizations apart are
accounts: `DEVICES_0`, `DEVICES_1` and so on, as many as the server's configuration has, taken in turn by the
organizations in the order of their creation. `DEVICES` is for who is nobody in particular, and for everybody where
there are no others.
"""

from __future__ import annotations

from typing import Final

import msgspec

from iotplatform.adapters.nats.connection import Connection
from iotplatform.errors import Unavailable

SHARED: Final = "DEVICES"


class _Names(msgspec.Struct):
    accounts: list[str] = []


class _Answer(msgspec.Struct):
    data: _Names


_decoder = msgspec.json.Decoder(_Answer)


def is_of_devices(account: str) -> bool:
    return account == SHARED or account.startswith(f"{SHARED}_")


class DeviceAccounts:
    """`system` is a connection of the system account."""

    def __init__(self, system: Connection) -> None:
        self._system = system
        self._names: list[str] | None = None
        # Another server may be configured otherwise.
        system.on_connected(self._forget)

    async def of_organization(self, epoch: int) -> str:
        """Raises:
        Unavailable: the server has not told which there are.
        """
        names = self._names
        if names is None:
            names = self._names = await self._ask()
        return names[epoch % len(names)] if names else SHARED

    async def _ask(self) -> list[str]:
        answer = await self._system.request("$SYS.REQ.SERVER.PING.ACCOUNTZ")
        try:
            found = _decoder.decode(answer.data).data.accounts
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Unavailable("nats-server does not tell its accounts") from error
        return sorted(name for name in found if is_of_devices(name) and name != SHARED)

    def _forget(self) -> None:
        self._names = None
