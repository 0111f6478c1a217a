"""What a channel must look like to be saved: a clear answer now instead of a surprise when it is to be used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Final

import msgspec

from iotplatform.adapters.webhook.addresses import Destinations, parse_url
from iotplatform.domain.channel import NO_SECRETS, SEVERITIES, Channel, ChannelConfig, ChannelSecrets, ChannelType
from iotplatform.domain.rule import Severity
from iotplatform.errors import Fault, Rejected
from iotplatform.roles.management.fields import Body, Identifier, Name

# What every mail server takes, and nothing that could end a header line or begin another recipient.
_ADDRESS: Final = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*"
)
MAX_ADDRESS_LENGTH: Final = 254
MAX_HEADERS: Final = 16
MAX_HEADER_LENGTH: Final = 2_000
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
# Those that say how a request travels, and those that only we write.
_OURS: Final = re.compile(
    r"host|content-.*|transfer-encoding|connection|keep-alive|te|trailer|upgrade|expect|proxy-.*|user-agent"
    r"|accept-encoding|iotplatform-.*"
)


class ChannelBodyConfig(Body, frozen=True):
    """`secret` and `headers` of a webhook that are left out stay as they are; null and {} remove them."""

    to: Annotated[tuple[str, ...], msgspec.Meta(max_length=100)] = ()
    url: str | None = None
    secret: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | msgspec.UnsetType | None = msgspec.UNSET
    headers: dict[str, str] | msgspec.UnsetType = msgspec.UNSET


class ChannelBody(Body, frozen=True):
    """A channel as it is to be; the `id` of a replaced one may be repeated."""

    name: Name
    type: ChannelType
    id: Identifier | None = None
    enabled: bool = True
    severities: Annotated[tuple[Severity, ...], msgspec.Meta(min_length=1)] = SEVERITIES
    config: ChannelBodyConfig = ChannelBodyConfig()

    def secrets(self, kept: ChannelSecrets) -> ChannelSecrets:
        """Those that are meant, where `kept` are those of the channel that is replaced."""
        if self.type != "webhook":
            return NO_SECRETS
        secret, headers = self.config.secret, self.config.headers
        return ChannelSecrets(
            kept.secret if secret is msgspec.UNSET else secret, kept.headers if headers is msgspec.UNSET else headers
        )

    def channel(self, channel_id: str, secrets: ChannelSecrets) -> Channel:
        if self.type == "webhook":
            shown = ChannelConfig(
                url=self.config.url or "",
                secret=secrets.secret is not None,
                headers=dict.fromkeys(secrets.headers, True),
            )
        else:
            shown = ChannelConfig(tuple(dict.fromkeys(self.config.to)))
        return Channel(
            id=channel_id,
            name=self.name,
            type=self.type,
            enabled=self.enabled,
            severities=tuple(dict.fromkeys(self.severities)),
            config=shown,
        )


async def check(body: ChannelBody, channel_id: str, destinations: Destinations) -> None:
    """Ask the resolver where a webhook leads.

    Raises:
        Rejected: it could not be used.
    """
    faults = _config_faults(body)
    if body.id not in {None, channel_id}:
        faults.append(Fault("must be the id in the path, or be left out", field="id"))
    if body.type == "webhook" and body.config.url and not faults:
        fault = await destinations.fault_of(body.config.url)
        faults += [Fault(fault, field="config.url")] if fault is not None else []
    if faults:
        raise Rejected("invalid", "the body is not valid", faults=tuple(faults))


def check_secrets_move(body: ChannelBody, before: Channel, kept: ChannelSecrets) -> None:
    """Whoever may change a channel can't read its secrets, nor have them sent to another place.

    Raises:
        Rejected: the URL leads to another server, and the secrets of before would go with it.
    """
    if body.type != "webhook" or not kept or not isinstance(before.config.url, str):
        return
    if _origin(before.config.url) == _origin(body.config.url or ""):
        return
    given = {"secret": body.config.secret, "headers": body.config.headers}
    had = {"secret": kept.secret is not None, "headers": bool(kept.headers)}
    faults = [
        Fault("give it anew, or remove it: the URL leads to another server", field=f"config.{name}")
        for name, value in given.items()
        if value is msgspec.UNSET and had[name]
    ]
    if faults:
        raise Rejected("invalid", "the body is not valid", faults=tuple(faults))


def _origin(url: str) -> tuple[str, str, int]:
    _, host, port = parse_url(url)
    return url.partition(":")[0], host, port


def _config_faults(body: ChannelBody) -> list[Fault]:
    config = body.config
    faults: list[Fault] = []
    if body.type != "webhook":
        given = {"url": config.url, "secret": config.secret, "headers": config.headers}
        faults += [
            Fault(f"a channel of type {body.type} has none", field=f"config.{name}")
            for name, value in given.items()
            if value not in {None, msgspec.UNSET} or isinstance(value, Mapping)
        ]
    if body.type != "email" and config.to:
        faults.append(Fault(f"a channel of type {body.type} has no addresses of mail", field="config.to"))
    if body.type == "email":
        faults += _mail_faults(config.to)
    if body.type == "webhook":
        faults += _webhook_faults(config)
    return faults


def _mail_faults(to: tuple[str, ...]) -> list[Fault]:
    if not to:
        return [Fault("must name at least one address", field="config.to")]
    return [
        Fault("is no mail address such as name@example.org", field=f"config.to[{number}]")
        for number, address in enumerate(to)
        if len(address) > MAX_ADDRESS_LENGTH or not _ADDRESS.fullmatch(address)
    ]


def _webhook_faults(config: ChannelBodyConfig) -> list[Fault]:
    faults: list[Fault] = []
    if not config.url:
        faults.append(Fault("must be a URL such as https://example.org/hook", field="config.url"))
    elif (fault := parse_url(config.url)[0]) is not None:
        faults.append(Fault(fault, field="config.url"))
    if isinstance(config.secret, str) and not (config.secret.isascii() and config.secret.isprintable()):
        faults.append(Fault("must be printable ASCII", field="config.secret"))
    if not isinstance(config.headers, dict):
        return faults
    if len(config.headers) > MAX_HEADERS:
        faults.append(Fault(f"may be at most {MAX_HEADERS}", field="config.headers"))
    seen: set[str] = set()
    for name, value in config.headers.items():
        lower = name.lower()
        if not _HEADER_NAME.fullmatch(name) or _OURS.fullmatch(lower):
            faults.append(Fault("is no name of a header, or of one that the platform writes", field="config.headers"))
        elif lower in seen:
            faults.append(Fault(f"has {lower!r} twice", field="config.headers"))
        elif len(value) > MAX_HEADER_LENGTH or not (value.isascii() and value.isprintable()) or value != value.strip():
            faults.append(
                Fault(
                    f"must be printable ASCII of at most {MAX_HEADER_LENGTH} characters", field=f"config.headers.{name}"
                )
            )
        seen.add(lower)
    return faults
