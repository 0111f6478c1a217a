"""Sealing what a webhook keeps secret, and carrying it over when its channel is replaced."""

from __future__ import annotations

import msgspec

from iotplatform.adapters.postgres.channels import channel_of
from iotplatform.adapters.postgres.models import ChannelRow
from iotplatform.adapters.secrets.vault import Vault
from iotplatform.domain.channel import NO_SECRETS, Channel, ChannelSecrets, WebhookTarget, place_of_secrets
from iotplatform.errors import Rejected, Unavailable
from iotplatform.roles.management.channel_bodies import ChannelBody, check_secrets_move


class SecretsKeeper:
    """For one request that makes or replaces a channel."""

    def __init__(self, vault: Vault, epoch: int, channel_id: str, body: ChannelBody) -> None:
        self._vault = vault
        self._place = place_of_secrets(epoch, channel_id)
        self._channel_id = channel_id
        self._body = body

    def make(self, before: ChannelRow | None) -> tuple[Channel, str | None]:
        """The channel that is meant, and its secrets, sealed.

        Raises:
            Rejected: secrets that stay would go to another server, or are sealed with a key that is gone.
        """
        kept = NO_SECRETS
        if before is not None and before.secrets is not None and self._needs_kept():
            try:
                kept = unsealed(self._vault, before.secrets, self._place)
            except Unavailable as error:
                raise Rejected("conflict", f"{error.detail}; or give config.secret and config.headers anew") from error
            check_secrets_move(self._body, channel_of(before), kept)
        secrets = self._body.secrets(kept)
        sealed = self._vault.seal(msgspec.json.encode(secrets), self._place) if secrets else None
        return self._body.channel(self._channel_id, secrets), sealed

    def _needs_kept(self) -> bool:
        config = self._body.config
        return self._body.type == "webhook" and msgspec.UNSET in (config.secret, config.headers)


def unsealed(vault: Vault, sealed: str | None, place: str) -> ChannelSecrets:
    """Raises:
    Unavailable: this process does not have the key.
    """
    return msgspec.json.decode(vault.unseal(sealed, place), type=ChannelSecrets) if sealed else NO_SECRETS


def target_of(vault: Vault, epoch: int, row: ChannelRow) -> WebhookTarget | None:
    """Where a webhook leads; None for channels of other types.

    Raises:
        Unavailable: this process does not have the key.
    """
    url = channel_of(row).config.url
    if not isinstance(url, str):
        return None
    return WebhookTarget(url, unsealed(vault, row.secrets, place_of_secrets(epoch, row.id)))
