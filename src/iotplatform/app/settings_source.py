"""Where the settings come from: a file, the environment, and files that hold one value."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from iotplatform.app.settings import Settings
from iotplatform.errors import ConfigError

PREFIX: Final = "IOTPLATFORM_"
_TOP_LEVEL: Final = {"data_dir", "roles"}
_LISTS: Final = (("auth", "allowed_hosts"), ("auth", "trusted_proxies"), ("notification", "allowed_addresses"))

Tables = dict[str, Any]


def load_settings(
    file: str | None, environment: Mapping[str, str], *, data_dir: str | None = None, roles: str | None = None
) -> Settings:
    """The settings of this run; arguments win over the environment, and that over the file.

    Raises:
        ConfigError: one line that names the setting or the file.
    """
    tables = _read_file(file) if file else {}
    _merge_environment(tables, environment)
    if data_dir is not None:
        tables["data_dir"] = data_dir
    if roles is not None:
        tables["roles"] = roles
    _read_value_files(tables, Settings, "")
    settings = _convert(tables)
    settings.check()
    return settings


def _read_file(file: str) -> Tables:
    try:
        return tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {file}: can't be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {file}: is not TOML: {error}") from error


def _merge_environment(tables: Tables, environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        if not name.startswith(PREFIX):
            continue
        path = name.removeprefix(PREFIX).lower().split("__")
        if (len(path) == 1 and path[0] not in _TOP_LEVEL) or "" in path:
            raise ConfigError(f"{name}: unknown setting; they are named {PREFIX}<SECTION>__<KEY>")
        if not value:
            # As good as not there: what one compose file sets, another can only empty.
            continue
        table = tables
        for part in path[:-1]:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{name}: {part} is not a section")
        table[path[-1]] = value


def _read_value_files(table: Tables, struct: type[msgspec.Struct], where: str) -> None:
    """Replace each `<name>_file` by `<name>` with the file's contents."""
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(struct)}
    for key in list(table):
        value = table[key]
        field = fields.get(key)
        if isinstance(value, dict) and isinstance(field, type) and issubclass(field, msgspec.Struct):
            _read_value_files(value, field, f"{where}{key}.")
        elif field is None and key.endswith("_file") and key.removesuffix("_file") in fields:
            name = key.removesuffix("_file")
            if name in table:
                raise ConfigError(f"{where}{key}: {where}{name} is set as well; set one of them")
            try:
                table[name] = Path(str(value)).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"{where}{key}: {value} can't be read: {error}") from error
            del table[key]


def _convert(tables: Tables) -> Settings:
    # Lists come as text from the environment.
    for section, key in _LISTS:
        table = tables.get(section)
        if isinstance(table, dict) and isinstance(table.get(key), str):
            table[key] = [entry.strip() for entry in table[key].split(",") if entry.strip()]
    try:
        return msgspec.convert(tables, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(str(error))) from None


def _explain(message: str) -> str:
    what, _, where = message.partition(" - at `$")
    path = where.rstrip("`").lstrip(".")
    unknown = re.search(r"unknown field `(.*)`", what)
    if unknown:
        return f"{f'{path}.' if path else ''}{unknown.group(1)}: unknown setting; config/example.toml lists them all"
    return f"{path}: {what[0].lower()}{what[1:]}"
