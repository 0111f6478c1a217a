"""How rows of telemetry look as NDJSON, CSV and Parquet."""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec
from litestar.exceptions import HTTPException

from iotplatform.domain.reading import Value
from iotplatform.domain.timestamps import format_timestamp
from iotplatform.roles.management.telemetry_results import Item

NDJSON: Final = "application/x-ndjson"
CSV: Final = "text/csv"
PARQUET: Final = "application/vnd.apache.parquet"
STREAMED: Final = (NDJSON, CSV, PARQUET)


class ReadingAnswer(msgspec.Struct, frozen=True):
    device_id: str
    sensor: str
    timestamp: str
    value: Value | None


class Format(Protocol):
    """Bytes for what comes first, for some rows, for the end, and for what went wrong after the first byte."""

    def rows(self, items: Sequence[Item]) -> bytes: ...

    def end(self) -> bytes: ...

    def failure(self, problem: Mapping[str, Any]) -> bytes: ...


def answer_of(item: Item) -> ReadingAnswer:
    return ReadingAnswer(item[0], item[1], format_timestamp(item[2]), item[3])


class Ndjson:
    def __init__(self) -> None:
        self._encoder = msgspec.json.Encoder()

    def rows(self, items: Sequence[Item]) -> bytes:
        return self._encoder.encode_lines([answer_of(item) for item in items])

    def end(self) -> bytes:
        return b""

    def failure(self, problem: Mapping[str, Any]) -> bytes:
        return self._encoder.encode_lines([{"error": problem}])


class Csv:
    def __init__(self) -> None:
        self._head = True

    def rows(self, items: Sequence[Item]) -> bytes:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\r\n")
        if self._head:
            writer.writerow(("device_id", "sensor", "timestamp", "value"))
            self._head = False
        writer.writerows((item[0], item[1], format_timestamp(item[2]), _cell(item[3])) for item in items)
        return text.getvalue().encode()

    def end(self) -> bytes:
        return self.rows(()) if self._head else b""

    def failure(self, problem: Mapping[str, Any]) -> bytes:  # noqa: ARG002 - a line would pass for data
        return b""


def _cell(value: Value | None) -> str | float | None:
    return ("true" if value else "false") if isinstance(value, bool) else value


class Parquet:
    """Columns of their own for numbers, booleans and text."""

    def __init__(self) -> None:
        try:
            self._arrow = importlib.import_module("pyarrow")
            parquet = importlib.import_module("pyarrow.parquet")
        except ImportError as error:
            detail = "Parquet needs pyarrow: install iotplatform[parquet] where management runs, or ask for text/csv"
            raise HTTPException(status_code=406, detail=detail) from error
        arrow = self._arrow
        self._schema = arrow.schema(
            [
                ("device_id", arrow.string()),
                ("sensor", arrow.string()),
                ("timestamp", arrow.timestamp("us", tz="UTC")),
                ("value", arrow.float64()),
                ("boolean", arrow.bool_()),
                ("text", arrow.string()),
            ]
        )
        self._sink = _Sink()
        self._writer = parquet.ParquetWriter(self._sink, self._schema)

    def rows(self, items: Sequence[Item]) -> bytes:
        values = [item[3] for item in items]
        columns = [
            [item[0] for item in items],
            [item[1] for item in items],
            [item[2] for item in items],
            [None if isinstance(value, str) or value is None else float(value) for value in values],
            [value if isinstance(value, bool) else None for value in values],
            [value if isinstance(value, str) else None for value in values],
        ]
        arrays = [self._arrow.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
        self._writer.write_batch(self._arrow.record_batch(arrays, schema=self._schema))
        return self._sink.take()

    def end(self) -> bytes:
        self._writer.close()
        return self._sink.take()

    def failure(self, problem: Mapping[str, Any]) -> bytes:  # noqa: ARG002 - without its end it is no Parquet file
        return b""


class _Sink(io.RawIOBase):
    """What Parquet writes into, and bytes are taken out of."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        part = bytes(data)
        self._parts.append(part)
        self._size += len(part)
        return len(part)

    def tell(self) -> int:
        return self._size

    def take(self) -> bytes:
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken


FORMATS: Final[Mapping[str, type[Ndjson | Csv | Parquet]]] = {NDJSON: Ndjson, CSV: Csv, PARQUET: Parquet}
