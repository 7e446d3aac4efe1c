"""`retrieval bench unified`: train and measure every variant of every study, then write tables and plots.

    retrieval bench unified --data ../shared/data --out bench/reports/unified

OUT gets rows.jsonl (every figure), report.md and the plots; WORK (beside OUT unless given) holds what runs share. A run
that is finished is not repeated, so a command that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from bench.arguments import parser_of
from bench.unified.plots import write_plots
from bench.unified.report import write_report
from bench.unified.rows import Row, Rows
from bench.unified.studies import STUDIES, Variant
from retrieval.cli.progress import progress_printer
from retrieval.errors import DamagedData, InvalidData, InvalidParams
from retrieval.training.systems import TRAINED

QUICK_ENTITIES, QUICK_STEPS = 800, 10


def main(arguments: Sequence[str] | None = None) -> None:
    """Run studies and write the report."""
    args = _parse(arguments)
    began = time.monotonic()
    rows = Rows(args.out)
    for text in args.add:
        _add_report(rows, text)
    if not args.report_only:
        _run(args, rows)
    if not rows.rows:
        raise InvalidData(f"{rows.path} has no rows: run the studies first, without --report-only")
    tables = write_report(args.out, rows.rows)
    plots = write_plots(args.out, rows.rows)
    print(tables.read_text(encoding="utf-8"))
    summary = {
        "report": str(tables),
        "plots": [str(plot) for plot in plots],
        "rows": len(rows.rows),
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(summary))


def _run(args: argparse.Namespace, rows: Rows) -> None:
    from bench.unified.run import Bench  # and with it the whole of training

    overrides = dict(_override(text) for text in args.set)
    if args.quick:
        overrides = {"run.steps": QUICK_STEPS, "run.random_negatives": 64, **overrides}
    with progress_printer("unified") as progress:
        bench = Bench(
            config=args.config,
            data=args.data,
            work=args.work or args.out.with_name(args.out.name + ".work"),
            overrides=overrides,
            limit=QUICK_ENTITIES if args.quick else None,
            progress=progress,
        )
        for name in args.only or STUDIES:
            study = STUDIES[name]
            rows.forget_others(name, {variant.name for variant in study.variants})
            for seed in range(min(args.seeds, study.seeds)):
                for done, variant in enumerate(study.variants):
                    progress(f"{name}, seed {seed}", done, len(study.variants))
                    settings = bench.settings(variant)
                    if not rows.finished(name, variant.name, seed, settings):
                        found = [row for row in bench.scores(variant, seed) if _shown(name, row["system"])]
                        rows.replace(name, variant.name, seed, [_row(variant, seed, settings, row) for row in found])
                progress(f"{name}, seed {seed}", len(study.variants), len(study.variants))


def _shown(study: str, system: str) -> bool:
    """Do rows of a system belong to a study? Equal trainings are shared, with all that was measured beside them."""
    return system == TRAINED or study in ("baselines", "compatibility")


def _row(variant: Variant, seed: int, settings: dict[str, Any], score: Row) -> Row:
    return {
        "study": variant.study,
        "variant": variant.name,
        "seed": seed,
        "system": score["system"],
        **{name: score[name] for name in ("task", "prefix", "metric", "mean", "low", "high", "queries", "candidates")},
        "seconds": score["train_seconds"],
        "settings": settings,
    }


def _add_report(rows: Rows, text: str) -> None:
    """Rows of `retrieval evaluate --out`, under a name: how a tower that was trained elsewhere comes in."""
    name, mark, path = text.partition("=")
    if not mark or not name:
        raise InvalidParams(f"--add {text!r} is not acceptable: write NAME=REPORT.json")
    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"))
        scores = [score for score in report["scores"] if score["system"] == TRAINED]
        settings = {"space_id": report["space_id"], "entities": report["entities"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedData(
            f"{path} is no report of `retrieval evaluate --out` ({type(error).__name__}: {error})"
        ) from None
    variant = Variant(study="baselines", name=name, sets=())
    rows.replace(
        "baselines", name, 0, [_row(variant, 0, settings, {**score, "train_seconds": None}) for score in scores]
    )


def _override(text: str) -> tuple[str, Any]:
    name, mark, value = text.partition("=")
    if not mark or not name:
        raise InvalidParams(f"--set {text!r} is not acceptable: write NAME=VALUE, for example run.steps=100")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value  # a bare word is a string


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of("unified", __doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the real data sets")
    parser.add_argument("--out", type=Path, default=Path("bench/reports/unified"), help="folder of rows and report")
    parser.add_argument("--work", type=Path, help="folder of tables and encoded texts, OUT.work unless given")
    parser.add_argument("--only", action="append", choices=list(STUDIES), help="this study only; may be repeated")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of a variant, at most what its study asks for")
    parser.add_argument("--quick", action="store_true", help="few entities and steps: shows that it runs, no more")
    parser.add_argument("--report-only", action="store_true", help="tables and plots of the rows that are there")
    parser.add_argument("--add", action="append", default=[], metavar="NAME=REPORT", help="of `retrieval evaluate`")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="over the configuration")
    parser.add_argument(
        "--config", type=Path, default=Path(str(files("bench.unified").joinpath("base.toml"))), help="what all share"
    )
    args = parser.parse_args(arguments)
    if args.seeds < 1:
        raise InvalidParams(f"--seeds {args.seeds} is not acceptable: train each variant at least once")
    return args


if __name__ == "__main__":
    main()
