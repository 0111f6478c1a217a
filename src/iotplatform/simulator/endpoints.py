"""Where the platform is: what the caller says, else what the running platform wrote down, else the default ports."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from iotplatform.errors import ConfigError

DEFAULT_INGEST: Final = "http://127.0.0.1:8080"
DEFAULT_MANAGEMENT: Final = "http://127.0.0.1:8081"
DEFAULT_MQTT: Final = "mqtt://127.0.0.1:1883"


class Endpoints(msgspec.Struct, frozen=True):
    """Base URLs without a slash at the end. `certificate`: the file of the one that both of them show, where known."""

    ingest: str
    management: str
    certificate: str | None = None


class _Runtime(msgspec.Struct):
    """The entries of runtime.json that matter here; null when that process doesn't run the role."""

    ingest: str | None = None
    management: str | None = None
    mqtt: str | None = None
    certificate: str | None = None


def find_mqtt(data_dir: Path, *, given: str | None = None) -> str:
    """Raises:
    ConfigError: runtime.json is there and can't be understood.
    """
    return given or _read_runtime(data_dir / "runtime.json").mqtt or DEFAULT_MQTT


def find_endpoints(data_dir: Path, *, ingest: str | None = None, management: str | None = None) -> Endpoints:
    """Raises:
    ConfigError: runtime.json is there and can't be understood.
    """
    recorded = _Runtime() if ingest and management else _read_runtime(data_dir / "runtime.json")
    return Endpoints(
        ingest=(ingest or recorded.ingest or DEFAULT_INGEST).rstrip("/"),
        management=(management or recorded.management or DEFAULT_MANAGEMENT).rstrip("/"),
        # Of a platform that was found, and of no other.
        certificate=None if ingest or management else recorded.certificate,
    )


def _read_runtime(path: Path) -> _Runtime:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Runtime)
    except (FileNotFoundError, NotADirectoryError):
        return _Runtime()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}; give --url and --management-url") from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is not what a platform writes ({error}); give --url and --management-url") from error
