"""A folder of numbered Parquet parts that belong to one plan; each is made once and trusted only while it is whole.

    OUT/_enrich.json          the plan and its digest
    OUT/part-00000.parquet    a part, in place only when it is whole
    OUT/_records/00000.json   what the part holds, of which plan, and the SHA-256 of its file

A run that was killed continues with the parts that have no record. Knows nothing about what the parts hold.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from index_builders.staging import fsync, hash_file, temporary_name, write_atomically, writing
from retrieval.errors import InvalidArgument
from retrieval.store.folder import UNFINISHED

PLAN_FILE = "_enrich.json"
RECORDS = "_records"


class PartFolder:
    """The parts of the plan with this digest in folder `out`."""

    def __init__(self, out: Path, digest: str) -> None:
        self.out = out
        self.digest = digest

    def claim(self, plan: Mapping[str, Any]) -> None:
        """Make the folder and store the plan in it, or take up what an earlier run of the same plan left.

        InvalidArgument when the folder holds another plan's parts or anything else; StoreError when it cannot be made.
        """
        found = stored_plan(self.out)
        if found is not None and found["digest"] != self.digest:
            raise InvalidArgument(
                f"{self.out} holds texts made from other inputs or settings: remove it or choose another folder"
            )
        if self.out.exists() and not self.out.is_dir():
            raise InvalidArgument(f"{self.out} is a file, the texts go into a folder: choose another name")
        with writing(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
            plan_file = self.out / PLAN_FILE
            if found is None and any(not entry.name.endswith(UNFINISHED) for entry in self.out.iterdir()):
                raise InvalidArgument(f"{self.out} holds files that are no texts of entities: choose another folder")
            if found is None:  # the first file of all: whatever else is there belongs to a plan
                content = {**plan, "digest": self.digest}
                write_atomically(plan_file, json.dumps(content, indent=1, sort_keys=True).encode())
            (self.out / RECORDS).mkdir(exist_ok=True)
            for leftover in [*self.out.glob(f"*{UNFINISHED}"), *self.out.glob(f"{RECORDS}/*{UNFINISHED}")]:
                leftover.unlink(missing_ok=True)

    def finished(self, number: int) -> dict[str, Any] | None:
        """The report of part `number` if it is of this plan and its file is unchanged, else None."""
        report = self.note(f"{number:05d}")
        path = self.file(number)
        if report is None or not path.is_file() or hash_file(path) != report.pop("sha256", None):
            return None
        return report

    def write(self, number: int, table: pa.Table, report: Mapping[str, Any]) -> None:
        """Write part `number` and put `report` on record; StoreError when that is impossible."""
        path = self.file(number)
        with writing(path):
            pq.write_table(table, temporary_name(path), compression="zstd")
            fsync(temporary_name(path))
            os.replace(temporary_name(path), path)
            fsync(self.out)
        self.set_note(f"{number:05d}", {**report, "sha256": hash_file(path)})

    def note(self, name: str) -> dict[str, Any] | None:
        """What `set_note` stored under `name` for this plan; None when there is nothing whole."""
        found = _read_json(self._record(name))
        return found if found is not None and found.pop("plan", None) == self.digest else None

    def set_note(self, name: str, content: Mapping[str, Any]) -> None:
        """Store a JSON object under `name` for later runs of this plan."""
        with writing(self.out):
            write_atomically(self._record(name), json.dumps({**content, "plan": self.digest}, sort_keys=True).encode())

    def file(self, number: int) -> Path:
        """Where part `number` is."""
        return self.out / f"part-{number:05d}.parquet"

    def _record(self, name: str) -> Path:
        return self.out / RECORDS / f"{name}.json"


def stored_plan(out: Path) -> dict[str, Any] | None:
    """The plan that an earlier run stored in folder `out`, with its digest; None when there is none."""
    found = _read_json(out / PLAN_FILE)
    return found if found is not None and "digest" in found else None


def stored_now(out: Path) -> datetime | None:
    """The time of making that an earlier run stored in folder `out`; None when there is none."""
    stored = (stored_plan(out) or {}).get("now")
    return datetime.fromisoformat(stored.replace("Z", "+00:00")) if stored else None


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
