"""What stands behind a credential, as every process that checks one knows it. Times in microseconds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

import msgspec

from iotplatform.domain.principal import EVERYTHING, NOTHING, ROLES, Permission, Principal, RoleName

# What an opaque credential begins with tells what it is, to us and to scanners for secrets that got somewhere.
DEVICE_KEY_PREFIX: Final = "iotd_"
API_KEY_PREFIX: Final = "iotk_"
REFRESH_TOKEN_PREFIX: Final = "iotr_"  # noqa: S105
SETUP_TOKEN_PREFIX: Final = "iots_"  # noqa: S105


def secret_hash(secret: str) -> bytes:
    """For secrets that are random enough to need nothing slower."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


class DeviceCredential(msgspec.Struct, frozen=True):
    """A live token or opaque key of a device."""

    id: str
    epoch: int
    organization_id: str
    device_id: str
    expires_at: int
    # Of the key that signed it; empty for an opaque key.
    kid: str = ""

    @property
    def principal(self) -> Principal:
        return Principal(
            "device",
            self.id,
            f"device {self.organization_id}/{self.device_id}",
            organization_id=self.organization_id,
            device_id=self.device_id,
        )


class ApiKey(msgspec.Struct, frozen=True):
    """Of one organization, or (`epoch` None) of the platform: its scopes then hold in every organization."""

    id: str
    epoch: int | None
    organization_id: str | None
    scopes: frozenset[Permission]
    expires_at: int | None

    @property
    def principal(self) -> Principal:
        if self.epoch is None:
            scopes = EVERYTHING if "platform" in self.scopes else self.scopes
            return Principal("api_key", self.id, f"api-key {self.id}", everywhere=scopes)
        within = {self.epoch: self.scopes}
        return Principal("api_key", self.id, f"api-key {self.id}", within=within, organization_id=self.organization_id)


class Account(msgspec.Struct, frozen=True):
    """A person who may come in."""

    id: str
    email: str
    platform_admin: bool
    roles: Mapping[int, RoleName]

    def principal(self, session_id: str) -> Principal:
        everywhere = EVERYTHING if self.platform_admin else NOTHING
        within = {epoch: ROLES[role] for epoch, role in self.roles.items()}
        return Principal("user", self.id, self.email, everywhere=everywhere, within=within, session_id=session_id)
