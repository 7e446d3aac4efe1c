"""The figures of all studies as JSON lines: one file, replaced whole after each finished run, so never half a run.

Each row: study, variant, seed, system, task, prefix, metric, mean, low, high, queries, seconds (of preparing, training
and measuring), settings. A run is finished when its rows are there with equal settings, and is not repeated. Knows
nothing about models.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from retrieval.errors import DamagedData, StoreError

Row: TypeAlias = dict[str, Any]
FIELDS = (
    "study", "variant", "seed", "system", "task", "prefix", "metric", "mean", "low", "high", "queries", "seconds",
    "settings",
)  # fmt: skip
ROWS_FILE = "rows.jsonl"


class Rows:
    """Rows kept in OUT/rows.jsonl."""

    def __init__(self, out: Path) -> None:
        """DamagedData when a line is not a row."""
        self.path = out / ROWS_FILE
        self.rows: list[Row] = []
        if self.path.is_file():
            for number, line in enumerate(self.path.read_text(encoding="utf-8").splitlines(), 1):
                self.rows.append(_row(line, f"line {number} of {self.path}"))

    def finished(self, study: str, variant: str, seed: int, settings: Mapping[str, Any]) -> bool:
        """Are there rows of this run, made with these settings? (What their values are follows from them.)"""
        wanted = _plain(settings)
        key = (study, variant, seed)
        return any((r["study"], r["variant"], r["seed"]) == key and r["settings"] == wanted for r in self.rows)

    def replace(self, study: str, variant: str, seed: int, rows: Iterable[Row]) -> None:
        """Put the rows of a run in the place of earlier ones, on disk at once; StoreError when that fails."""
        key = (study, variant, seed)
        kept = [row for row in self.rows if (row["study"], row["variant"], row["seed"]) != key]
        self._write([*kept, *(_plain(row) for row in rows)])

    def forget_others(self, study: str, variants: Collection[str]) -> None:
        """Drop rows of a study's trainings that are no longer in its table; what `--add` brought in stays."""
        self._write(
            [
                row
                for row in self.rows
                if row["study"] != study or row["variant"] in variants or "sets" not in row["settings"]
            ]
        )

    def _write(self, rows: list[Row]) -> None:
        self.rows = rows
        partial = self.path.with_name(f".{self.path.name}.partial")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows), "utf-8")
            os.replace(partial, self.path)
        except OSError as error:
            raise StoreError(f"cannot write {self.path}: {error.strerror}") from error


def select(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    """Rows whose fields have these values."""
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def _row(line: str, where: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict) or not set(FIELDS) <= set(row):
        raise DamagedData(f"{where} is not a row of figures: remove the line, its run is made again")
    return row


def _plain(value: Mapping[str, Any]) -> Row:
    found: Row = json.loads(json.dumps(dict(value)))
    return found
