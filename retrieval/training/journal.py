"""The log of a training: one JSON object a line, in step order, without a gap or a repetition after a resume.

Lines of steps: `step`, `loss`, `tasks` (each with its `in_batch` and `random` term), `temperature`, `gradient_norm`,
`rate` (share of the initial learning rates), `seconds` (since this process began). Lines of validations: `step` and
`validation_recall@10` by task. Knows nothing about what the numbers mean.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Journal:
    """Appends to one file; a process that does not lead writes nothing."""

    def __init__(self, path: Path, *, leads: bool) -> None:
        self._path, self._leads = path, leads

    def begin(self) -> None:
        """Start empty."""
        if self._leads:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.unlink(missing_ok=True)

    def add(self, line: Mapping[str, Any]) -> None:
        """Append one object; it has a `step`."""
        if self._leads:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def forget_after(self, step: int) -> None:
        """Drop the lines of later steps, which are about to be made again, and a line that a kill cut short."""
        if not self._leads or not self._path.is_file():
            return
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        partial = self._path.with_name(self._path.name + ".partial")
        partial.write_text("".join(kept), encoding="utf-8")
        os.replace(partial, self._path)
