"""Plots of the stored rows, PNG and SVG, by matplotlib: one for each study. Knows nothing about how rows were made."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.unified.figures import figure, whole
from bench.unified.rows import Row, select
from bench.unified.studies import STUDIES
from retrieval.errors import MissingDependency
from retrieval.training.systems import TRAINED

METRIC = "recall@10"


def write_plots(out: Path, rows: Sequence[Row]) -> list[Path]:
    """Write OUT/<study>.png and .svg of every study that has rows; MissingDependency when matplotlib is absent."""
    try:
        import matplotlib
    except ImportError:
        raise MissingDependency(
            "plots need matplotlib, which is not installed: pip install 'retrieval[plots]'"
        ) from None
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "retrieval"  # equal rows, equal bytes
    from matplotlib.figure import Figure as Canvas

    paths = []
    for name, study in STUDIES.items():
        found = select(rows, study=name, metric=METRIC)
        if not found:
            continue
        canvas: Any = Canvas(layout="constrained")
        axes = canvas.subplots()
        if name == "prefixes":
            canvas.set_size_inches(7, 4.5)
            _lines(axes, select(found, system=TRAINED))
        else:
            _bars(axes, whole(found), canvas)
        axes.set_title(f"{study.title}: {METRIC} on held-out queries")
        for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            path = out / f"{name}.{ending}"
            partial = path.with_name(f".{name}.partial.{ending}")
            canvas.savefig(partial, dpi=150, metadata=metadata)
            os.replace(partial, path)
            paths.append(path)
    return paths


def _lines(axes: Any, rows: Sequence[Row]) -> None:
    for task in dict.fromkeys(row["task"] for row in rows):
        of_task = select(rows, task=task)
        prefixes = sorted({row["prefix"] for row in of_task})
        points = [figure(select(of_task, prefix=prefix)) for prefix in prefixes]
        known = [point for point in points if point is not None]
        errors = [[point.mean - point.low for point in known], [point.high - point.mean for point in known]]
        axes.errorbar(prefixes, [point.mean for point in known], yerr=errors, marker="o", capsize=3, label=task)
    axes.set_xscale("log", base=2)
    axes.set_xticks(
        sorted({row["prefix"] for row in rows}), labels=sorted({str(row["prefix"]) for row in rows}, key=int)
    )
    axes.set_xlabel("dimensions")
    axes.set_ylabel(METRIC)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()


def _bars(axes: Any, rows: Sequence[Row], canvas: Any) -> None:
    keys = list(dict.fromkeys((row["task"], _label(row)) for row in rows))
    keys.sort(key=lambda key: [row["task"] for row in rows].index(key[0]))
    canvas.set_size_inches(9, max(3, 0.32 * len(keys) + 1))
    colours = {task: f"C{number % 10}" for number, task in enumerate(dict.fromkeys(task for task, _ in keys))}
    for place, (task, label) in enumerate(keys):
        found = figure([row for row in select(rows, task=task) if _label(row) == label])
        assert found is not None
        # over several seeds the bar shows their spread, else the interval over queries
        below = found.spread if found.seeds > 1 else found.mean - found.low
        above = found.spread if found.seeds > 1 else found.high - found.mean
        axes.barh(place, found.mean, xerr=[[below], [above]], color=colours[task], alpha=0.8, capsize=2)
    axes.set_yticks(range(len(keys)), labels=[f"{task}: {label}" for task, label in keys], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(METRIC)
    axes.set_xlim(left=0)
    axes.grid(axis="x", alpha=0.3)


def _label(row: Row) -> str:
    return str(row["variant"].split(" (")[0] if row["system"] == TRAINED else row["system"])
