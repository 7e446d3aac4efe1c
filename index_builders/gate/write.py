"""The report on disk: report.md for people, report.json for programs, and plots where matplotlib is installed.

Each file is written under a temporary name and renamed. The same report gives the same files, but for the line of
timings. Knows nothing about how figures came about.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from index_builders.gate.markdown import markdown
from index_builders.gate.plots import write_plots
from index_builders.gate.report import GateReport
from retrieval.errors import StoreError


def write_report(report: GateReport, folder: Path) -> list[Path]:
    """Write the report into `folder`, made if need be; its files, report.md first. StoreError when the disk refuses."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        plots, missing = write_plots(report.histograms, folder)
        body = json.dumps(report.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
        written = [
            _write(folder / "report.md", markdown(report, [plot.name for plot in plots], missing)),
            _write(folder / "report.json", body),
        ]
    except OSError as error:
        raise StoreError(f"cannot write the gate's report into {folder}: {error.strerror or error}") from error
    return written + plots


def _write(path: Path, text: str) -> Path:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
    return path
