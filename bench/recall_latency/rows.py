"""Raw rows: one for each setting of each run of an engine, a Parquet file for each run, written whole or not at all.

A run is an engine with its build on one data set in one repeat. Its rows hold every query's time and recall, so that
any figure can be made again, and all that tells runs apart: data digest, versions, machine, commit. A run that failed
is a row too, with its reason. Knows nothing about engines and figures.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from retrieval.errors import DamagedData, InvalidData, StoreError

Row: TypeAlias = dict[str, Any]
_TEXT, _COUNT, _SECONDS = pa.string(), pa.int64(), pa.float64()
SCHEMA = pa.schema(
    {
        "data": _TEXT,
        "data_digest": _TEXT,
        "n": _COUNT,
        "d": _COUNT,
        "engine": _TEXT,
        "kind": _TEXT,  # ours, library or system
        "build": _TEXT,  # JSON
        "repeat": _COUNT,
        "reason": _TEXT,  # why it failed; empty where it did not
        "k": _COUNT,
        "mode": _TEXT,  # single or batch
        "threads": _COUNT,
        "effort": _TEXT,  # JSON
        "queries": _COUNT,  # answered within the budget, from the first on
        "latency_ns": pa.list_(pa.int64()),  # single: of each query; batch: per query, of each call
        "recall": pa.list_(pa.float32()),  # of each query, recomputed from the ids
        "cpu_share": _SECONDS,  # CPU time over time while it was measured
        "missing": _COUNT,
        "duplicates": _COUNT,
        "unknown": _COUNT,
        "open_s": _SECONDS,
        "first_query_ns": _COUNT,
        "resident_bytes": _COUNT,
        "build_s": _SECONDS,
        "build_cpu_s": _SECONDS,
        "build_base_bytes": _COUNT,
        "build_peak_bytes": _COUNT,
        "disk_bytes": _COUNT,
        "versions": _TEXT,  # JSON
        "commit": _TEXT,
        "machine": _TEXT,  # JSON
        "settings_key": _TEXT,  # digest of what was asked for
    }
)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Put the rows of one run into the place of earlier ones; StoreError when that fails."""
    partial = path.with_name(f".{path.name}.partial")
    table = pa.Table.from_pylist([{name: row.get(name) for name in SCHEMA.names} for row in rows], schema=SCHEMA)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, partial, compression="zstd")
        os.replace(partial, path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error


def read_rows(path: Path) -> list[Row]:
    """The rows of one file. DamagedData when it is none of ours."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise DamagedData(f"{path} cannot be read as rows ({error}): remove it, its run is made again") from None
    missing = [name for name in SCHEMA.names if name not in table.schema.names]
    if missing:
        raise DamagedData(f"{path} has no column {missing[0]!r}: it is no file of rows; remove it")
    rows: list[Row] = table.select(SCHEMA.names).to_pylist()
    return rows


def read_all(out: Path) -> list[Row]:
    """All rows under OUT/rows, in the order of their files' names. InvalidData when there are none.

    Sets of one name and different bytes get names of their own: their rows do not compare.
    """
    rows = [row for path in sorted((out / "rows").glob("*.parquet")) for row in read_rows(path)]
    if not rows:
        raise InvalidData(f"{out} has no rows: run `retrieval bench recall-latency --out {out}` first")
    digests: dict[str, set[str]] = {}
    for row in rows:
        digests.setdefault(row["data"], set()).add(row["data_digest"])
    several = {name for name, found in digests.items() if len(found) > 1}  # say with more or fewer queries
    for row in rows:
        if row["data"] in several:
            row["data"] = f"{row['data']}-{row['data_digest'][:8]}"
    return rows


def of_one_setting(rows: Sequence[Row]) -> list[Row]:
    """The rows that may be taken together: of each engine, build and data those with the settings of its first repeat.

    Repeats are measured in their order, so what later ones say of other settings is older.
    """
    first: dict[tuple[str, ...], Row] = {}
    for row in rows:
        unit = (row["data"], row["engine"], row["build"])
        if unit not in first or row["repeat"] < first[unit]["repeat"]:
            first[unit] = row
    return [
        row for row in rows if row["settings_key"] == first[row["data"], row["engine"], row["build"]]["settings_key"]
    ]


def plain(value: Any) -> str:
    """JSON of parameters, the same for the same parameters."""
    return json.dumps(value, sort_keys=True)
