"""`retrieval evaluate`: how good a checkpoint is on held-out pairs, beside baselines, per task and prefix."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from retrieval.cli.progress import ProgressCallback, progress_printer
from retrieval.errors import InvalidParams
from retrieval.types import StrEnum


class Baseline(StrEnum):
    """What a checkpoint can be held against."""

    ZERO_SHOT = "zero-shot"
    BM25 = "bm25"


def evaluate(
    checkpoint: Annotated[Path, typer.Option(help="checkpoint folder that is measured")],
    entities: Annotated[list[Path], typer.Option(help="Parquet table of entities; give it again for further tables")],
    pairs: Annotated[Path, typer.Option(help="held-out pairs: query, task, id or answer, weight (the rating)")],
    distractors: Annotated[
        list[Path] | None, typer.Option(help="table of entities that are searched too and never correct")
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="measure this task only; all when not given")] = None,
    prefixes: Annotated[
        str | None, typer.Option(help="dimensions to cut embeddings to, as 16,32,64; the whole one is always measured")
    ] = None,
    baseline: Annotated[list[Baseline] | None, typer.Option(help="measure this beside it, on the same index")] = None,
    binary: Annotated[
        bool, typer.Option(help="every pair counts 1: for weights that are no ratings, such as counts of clicks")
    ] = False,
    old_embeddings: Annotated[
        Path | None, typer.Option(help="embeddings of an older space, to show that they still can be searched")
    ] = None,
    old_checkpoint: Annotated[Path | None, typer.Option(help="checkpoint that made them")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of the encoders; all cores when not given")] = None,
    out: Annotated[Path | None, typer.Option(help="write the report here as JSON")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object last, for programs")] = False,
) -> None:
    """Measure recall@10, recall@100 and nDCG@10 with 95 % intervals, searching all entities exactly."""
    wanted = _prefixes(prefixes)
    if (old_embeddings is None) != (old_checkpoint is None):
        raise InvalidParams("--old-embeddings and --old-checkpoint belong together: give both, or none")
    with progress_printer("evaluate") as progress:
        report = _measure(
            checkpoint,
            entities,
            distractors or (),
            pairs,
            tasks=task or (),
            prefixes=wanted,
            baselines=baseline or (),
            binary=binary,
            old=None if old_embeddings is None or old_checkpoint is None else (old_embeddings, old_checkpoint),
            threads=threads,
            progress=progress,
        )
    _show(report)
    if out is not None:
        partial = out.with_name(f".{out.name}.partial")
        partial.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(partial, out)
    if as_json:
        typer.echo(json.dumps(report, ensure_ascii=False))


def _measure(
    checkpoint: Path,
    entities: Sequence[Path],
    distractors: Sequence[Path],
    pairs: Path,
    *,
    tasks: Sequence[str],
    prefixes: Sequence[int],
    baselines: Sequence[Baseline],
    binary: bool,
    old: tuple[Path, Path] | None,
    threads: int | None,
    progress: ProgressCallback,
) -> dict[str, Any]:
    # torch takes seconds to import: only when the command runs
    from retrieval.towers.checkpoint import read_checkpoint
    from retrieval.training.compatibility import old_space_systems
    from retrieval.training.evaluation import evaluate_system
    from retrieval.training.questions import read_corpus, read_questions
    from retrieval.training.rankings import System
    from retrieval.training.systems import Bm25System, text_columns, tower_system, zero_shot_system

    opened = read_checkpoint(checkpoint)
    before = None if old is None else read_checkpoint(old[1])
    corpus = read_corpus(entities, distractors)
    asked = read_questions(pairs, corpus, tasks=tasks, binary=binary)
    questions = list(asked.values())
    towers = tower_system(opened, corpus, questions, prefixes=prefixes, threads=threads, progress=progress)
    scores = evaluate_system(towers, asked, progress=progress)
    for name in baselines:
        rival: System
        if name is Baseline.BM25:
            rival = Bm25System(corpus, text_columns(opened))
        else:
            rival = zero_shot_system(opened, corpus, questions, threads=threads, progress=progress)
        scores += evaluate_system(rival, asked, progress=progress)
    if old is not None and before is not None:
        by_entity = {name: found for name, found in asked.items() if found.rows is not None}
        for rival in old_space_systems(opened, before, old[0], corpus, questions, threads=threads):
            scores += evaluate_system(rival, by_entity, progress=progress)
    return {
        "checkpoint": str(checkpoint),
        "space_id": opened.config.space_id,
        "compatible": list(opened.config.compatible),
        "entities": corpus.first_distractor,
        "distractors": len(corpus.entities) - corpus.first_distractor,
        "without_vector": towers.without_vector,
        "scores": [score.to_row() for score in scores],
    }


def _show(report: dict[str, Any]) -> None:
    title = f"space {report['space_id']}: {report['entities']:,} entities, {report['distractors']:,} distractors"
    table = Table(title=title, caption="mean over queries [95 % bootstrap interval]; exact search")
    grouped: dict[tuple[Any, ...], dict[str, str]] = {}
    for row in report["scores"]:
        key = (row["task"], row["system"], row["prefix"] or "", row["queries"], row["candidates"])
        grouped.setdefault(key, {})[row["metric"]] = f"{row['mean']:.4f} [{row['low']:.4f}, {row['high']:.4f}]"
    metrics = list(dict.fromkeys(row["metric"] for row in report["scores"]))
    for name in ("task", "system", "d", "queries", "searched", *metrics):
        table.add_column(name, justify="left" if name in ("task", "system") else "right", no_wrap=True)
    for (task, system, prefix, queries, candidates), figures in grouped.items():
        cells = (task, system, str(prefix), f"{queries:,}", f"{candidates:,}")
        table.add_row(*cells, *(figures.get(metric, "") for metric in metrics))
    # figures cut off at the edge of a narrow terminal or a pipe would be worse than long lines
    Console(width=max(Console().width, 160)).print(table)
    if report["without_vector"]:
        typer.echo(f"{report['without_vector']:,} entities have nothing that the tower reads and cannot be found")


def _prefixes(text: str | None) -> list[int]:
    if text is None:
        return []
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        raise InvalidParams(f"--prefixes {text!r} is not acceptable: write numbers, as 16,32,64") from None
    return found
