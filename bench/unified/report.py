"""OUT/report.md: the figures of all studies as tables, from stored rows alone. The same rows give the same bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.unified.figures import METRICS, Figure, figure, relative, verdict, whole
from bench.unified.rows import Row, select
from bench.unified.studies import BASE, STUDIES
from retrieval.training.systems import BM25, TRAINED, ZERO_SHOT

REPORT_FILE = "report.md"
_HEAD = """# The unified model, measured

Held-out queries, every candidate searched exactly. `a [b, c]`: mean over queries and its 95 % bootstrap interval;
`a ± b`: mean and standard deviation over seeds. Every figure with its settings is in `rows.jsonl`.
"""
_NOTES = {
    "baselines": "ours: frozen encoder with a trained head, and the trained entity tower; the zero-shot encoder has "
    "384 dimensions, ours 256. Gains are against the zero-shot encoder.",
    "unified": "One model for all tasks against one for each, with the same number of pairs of each task in training. "
    "Both search the same candidates. Relative: recall@10 of the one model against that of the task's own.",
    "ablations": "A part is taken away and everything else kept. Verdict by recall@10: a difference of at most twice "
    "its standard error over seeds says nothing.",
    "compatibility": "The old space is the encoder before training, projected to 256 dimensions by PCA; its "
    "embeddings of the entities stay as they are. `trained` is the new query tower on new embeddings.",
    "prefixes": "recall@10 of embeddings cut to their first dimensions, both sides at unit length again.",
}


def write_report(out: Path, rows: Sequence[Row]) -> Path:
    """Write the report of these rows into the folder `out`; studies without rows are left out."""
    parts = [_HEAD]
    for name, study in STUDIES.items():
        found = select(rows, study=name)
        if found:
            parts.append(f"## {study.title}\n\n{_NOTES[name]}\n\n{_TABLES[name](found)}\n")
    path = out / REPORT_FILE
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("\n".join(parts), encoding="utf-8")
    os.replace(partial, path)
    return path


def _baselines(rows: list[Row]) -> str:
    rows = whole(rows)
    lines = []
    for task in _distinct(rows, "task"):
        of_task = select(rows, task=task)
        systems: dict[str, list[Row]] = {}
        for row in of_task:
            label = row["system"] if row["system"] != TRAINED else row["variant"].split(" (")[0]
            systems.setdefault(label, []).append(row)
        zero_shot = _figures(systems.get(ZERO_SHOT, []))
        for label in sorted(systems, key=lambda name: ({BM25: 0, ZERO_SHOT: 1}.get(name, 2), name)):
            figures = _figures(systems[label])
            gains = []
            for metric in ("recall@10", "ndcg@10"):
                found, first = figures[metric], zero_shot[metric]
                gains.append(relative(found.mean, first.mean) if found and first and label != ZERO_SHOT else "")
            lines.append([task, label, *_cells(figures), *gains])
    return _table(["task", "system", "queries", *METRICS, "recall@10 gain", "ndcg@10 gain"], lines)


def _unified(rows: list[Row]) -> str:
    rows = whole(rows)
    together = select(rows, variant="one model")
    lines = []
    for task in _distinct(rows, "task"):
        one = _figures(select(together, task=task))
        alone = _figures([row for row in select(rows, task=task) if row["variant"].startswith(f"only {task} (")])
        pair = one["recall@10"], alone["recall@10"]
        gain = relative(pair[0].mean, pair[1].mean) if pair[0] and pair[1] else ""
        for label, figures in (("one model", one), ("its own model", alone)):
            spread = [found.with_spread() if found else "" for found in figures.values()]
            count = next((str(found.queries) for found in figures.values() if found), "")
            lines.append([task, label, count, *spread, gain if label == "one model" else ""])
    return _table(["task", "model", "queries", *METRICS, "relative"], lines)


def _ablations(rows: list[Row]) -> str:
    rows = whole(rows)
    lines = []
    for base_name in [name for name in _distinct(rows, "variant") if name.startswith(f"{BASE} (")]:
        chosen = base_name.removeprefix(BASE)
        for task in _distinct(select(rows, variant=base_name), "task"):
            base = _figures(select(rows, variant=base_name, task=task))
            lines.append([task, BASE, *_spreads(base), "", ""])
            for name in _distinct(select(rows, task=task), "variant"):
                if name.endswith(chosen) and name != base_name:
                    figures = _figures(select(rows, variant=name, task=task))
                    found, first = figures["recall@10"], base["recall@10"]
                    said = ["", ""]
                    if found and first:
                        said = [relative(found.mean, first.mean), verdict(found, first)]
                    lines.append([task, name.removesuffix(chosen).strip(), *_spreads(figures), *said])
    return _table(["task", "variant", "seeds", *METRICS, "relative", "verdict"], lines)


def _compatibility(rows: list[Row]) -> str:
    rows = whole(rows)
    lines = [
        [task, system, *_cells(_figures(select(rows, task=task, system=system)))]
        for task in _distinct(rows, "task")
        for system in _distinct(select(rows, task=task), "system")
    ]
    return _table(["task", "system", "queries", *METRICS], lines)


def _prefixes(rows: list[Row]) -> str:
    prefixes = sorted({row["prefix"] for row in rows if row["prefix"] is not None})
    lines = []
    for task in _distinct(rows, "task"):
        cells = []
        for prefix in prefixes:
            found = figure(select(rows, task=task, prefix=prefix, metric="recall@10", system=TRAINED))
            cells.append(found.with_interval() if found else "")
        lines.append([task, *cells])
    return _table(["task", *(f"d = {prefix}" for prefix in prefixes)], lines)


_TABLES: dict[str, Callable[[list[Row]], str]] = {
    "baselines": _baselines,
    "unified": _unified,
    "ablations": _ablations,
    "compatibility": _compatibility,
    "prefixes": _prefixes,
}


def _distinct(rows: Sequence[Row], name: str) -> list[str]:
    return list(dict.fromkeys(row[name] for row in rows))


def _figures(rows: Sequence[Row]) -> dict[str, Figure | None]:
    return {metric: figure(select(rows, metric=metric)) for metric in METRICS}


def _cells(figures: dict[str, Figure | None]) -> list[str]:
    count = next((str(found.queries) for found in figures.values() if found), "")
    return [count, *(found.with_interval() if found else "" for found in figures.values())]


def _spreads(figures: dict[str, Figure | None]) -> list[str]:
    count = next((str(found.seeds) for found in figures.values() if found), "")
    return [count, *(found.with_spread() if found else "" for found in figures.values())]


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---" if name in ("task", "system", "model", "variant", "verdict") else "---:" for name in head]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *lines))
