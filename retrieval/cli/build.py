"""`retrieval build`: a table of embeddings becomes a published generation. Knows nothing about how."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from index_builders.build import BuildReport
from index_builders.build import build as run_build
from index_builders.estimate import Estimate, check_limits, estimate
from index_builders.limits import find_limits, parse_size
from index_builders.settings import BuildSettings, make_settings
from index_builders.tune import TuneReport, make_bounds, tune
from index_builders.tune.outcome import promise
from retrieval.cli.progress import progress_printer
from retrieval.cli.tune import encoded_queries, print_table
from retrieval.errors import InvalidParams


def build(
    source: Annotated[Path, typer.Argument(help="Parquet or Arrow file, a folder of them, or a float32 .npy.")],
    store: Annotated[Path, typer.Option(help="Store to build into; made if it does not exist.")],
    entity_type: Annotated[str, typer.Option(help="What the rows are, for example pin: one live generation each.")],
    ids: Annotated[Path | None, typer.Option(help="Ids of a .npy source: int64 .npy, text or Parquet.")] = None,
    space_id: Annotated[
        str | None, typer.Option(help="Space of the embeddings; only needed where the source does not say.")
    ] = None,
    metric: Annotated[str, typer.Option(help="cosine, ip or l2; cosine normalises the rows.")] = "cosine",
    shards: Annotated[int, typer.Option(help="Parts built in parallel processes and searched side by side.")] = 1,
    kind: Annotated[
        str,
        typer.Option(
            help="flat, hnsw, ivfpq, or auto: tuned where --target-recall, --max-latency-ms or --max-bytes-per-row is "
            "given, else by rows per shard, flat < 10,000 <= hnsw < 2,000,000."
        ),
    ] = "auto",
    vectors: Annotated[
        str | None, typer.Option(help="float16 (default) or float32: what exact scores are computed from.")
    ] = None,
    m: Annotated[int | None, typer.Option(help="hnsw: links per row; more for recall, at memory's cost.")] = None,
    ef_construction: Annotated[int | None, typer.Option(help="hnsw: candidates while building; build time.")] = None,
    nlist: Annotated[int | None, typer.Option(help="ivfpq: inverted lists; default 2 sqrt(rows per shard).")] = None,
    pq_dims: Annotated[int | None, typer.Option(help="ivfpq: dimensions per code; default 2.")] = None,
    pq_bits: Annotated[int | None, typer.Option(help="ivfpq: bits per code; 4 scans in registers.")] = None,
    train_rows: Annotated[int | None, typer.Option(help="ivfpq: cap of the training sample; its memory.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of sampling, training and graph levels.")] = 0,
    workers: Annotated[
        int | None, typer.Option(help="Shard processes; default one per core, fewer to spare memory, 0 for none.")
    ] = None,
    fast: Annotated[
        bool,
        typer.Option("--fast", help="Several threads per shard: quicker with few shards, but other bytes each time."),
    ] = False,
    keep: Annotated[int, typer.Option(help="Generations that stay, to roll back to.")] = 3,
    publish: Annotated[bool, typer.Option(help="Make the result the live generation.")] = True,
    max_quarantined: Annotated[float, typer.Option(help="Share of unusable rows above which to fail.")] = 0.01,
    target_recall: Annotated[
        float | None, typer.Option(help="Recall@100 that the default effort has to reach; 0.95 when not given.")
    ] = None,
    max_latency_ms: Annotated[
        float | None, typer.Option(help="kind auto: 95th percentile that a query may take, one thread, all shards.")
    ] = None,
    max_bytes_per_row: Annotated[
        float | None, typer.Option(help="kind auto: bytes of index files per row, which serving keeps in memory.")
    ] = None,
    min_recall: Annotated[float, typer.Option(help="Recall@100 below which nothing is published.")] = 0.80,
    queries: Annotated[
        Path | None, typer.Option(help="Real query embeddings to measure with, beside perturbed items.")
    ] = None,
    query_texts: Annotated[
        Path | None,
        typer.Option(help="Real query texts, one a line or a Parquet column `text`; goes with --checkpoint."),
    ] = None,
    canary_texts: Annotated[
        Path | None, typer.Option(help="Texts kept with their answers, to be asked again; default --query-texts.")
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint whose query tower encodes these texts.")] = None,
    verify_queries: Annotated[int, typer.Option(help="Queries to measure with; more for steadier figures.")] = 200,
    max_memory: Annotated[
        str | None, typer.Option(help="Refuse a build whose peak is above, as 12G; else what is free or granted.")
    ] = None,
    max_disk: Annotated[str | None, typer.Option(help="Refuse a build whose peak on disk is above, as 100G.")] = None,
    only_estimate: Annotated[
        bool, typer.Option("--estimate", help="Tell time, memory and disk of the build, and stop.")
    ] = False,
    id_column: Annotated[str, typer.Option(help="Column of the ids.")] = "id",
    embedding_column: Annotated[str, typer.Option(help="Column of the embeddings.")] = "embedding",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object as the last line.")] = False,
) -> None:
    """Build and publish a generation. A killed build is resumed by running the same command again."""
    given = {
        "vectors": vectors,
        "m": m,
        "ef_construction": ef_construction,
        "nlist": nlist,
        "pq_dims": pq_dims,
        "pq_bits": pq_bits,
        "train_rows": train_rows,
    }
    params = {name: value for name, value in given.items() if value is not None}
    bounds = make_bounds(
        target_recall=target_recall, max_latency_ms=max_latency_ms, max_bytes_per_row=max_bytes_per_row
    )
    limits = {
        "max_memory": None if max_memory is None else parse_size(max_memory, "--max-memory"),
        "max_disk": None if max_disk is None else parse_size(max_disk, "--max-disk"),
    }
    bounded = any(bound is not None for bound in (target_recall, max_latency_ms, max_bytes_per_row))
    if kind != "auto" and (max_latency_ms is not None or max_bytes_per_row is not None):
        raise InvalidParams(
            f"--max-latency-ms and --max-bytes-per-row choose the kind, and --kind {kind} names one: leave either out"
        )
    if kind == "auto" and bounded and params:
        raise InvalidParams(
            f"--{next(iter(params)).replace('_', '-')} fixes what tuning chooses: name the --kind too, or leave it out"
        )
    with tempfile.TemporaryDirectory(prefix="retrieval-queries-") as folder:
        if query_texts is not None or (checkpoint is not None and canary_texts is None):
            queries = encoded_queries(
                query_texts,
                checkpoint,
                queries,
                Path(folder),
                count=verify_queries,
                seed=seed,
                source=source,
                space_id=space_id,
            )
        settings = make_settings(
            source=source,
            ids=ids,
            store=store,
            entity_type=entity_type,
            space_id=space_id,
            metric=metric,
            shards=shards,
            kind=kind,
            params=params,
            seed=seed,
            workers=workers,
            fast=fast,
            keep=keep,
            publish=publish,
            max_quarantined=max_quarantined,
            target_recall=bounds.target_recall,
            min_recall=min_recall,
            queries=queries,
            canary_texts=canary_texts or query_texts,
            checkpoint=checkpoint,
            verify_queries=verify_queries,
            id_column=id_column,
            embedding_column=embedding_column,
        )
        with progress_printer(f"build {entity_type}") as progress:
            tuned = tune(settings, bounds, progress=progress) if kind == "auto" and bounded else None
        if tuned is not None:
            print_table(tuned)
            settings = _as_chosen(settings, tuned)
        expected = estimate(settings)
        print(expected.sentence())
        check_limits(expected, find_limits(store, **limits))
        if only_estimate:
            if as_json:
                print(json.dumps({"estimate": expected.model_dump(mode="json")}))
            return
        with progress_printer(f"build {entity_type}") as progress:
            report = run_build(settings, progress=progress)
    print(_sentences(report))
    if as_json:
        print(json.dumps(_summary(report, expected)))


def _as_chosen(settings: BuildSettings, tuned: TuneReport) -> BuildSettings:
    choice = tuned.chosen()
    promised = promise(choice, tuned.sample_rows).model_dump()
    return settings.model_copy(update={"kind": choice.candidate.kind, "params": choice.params, "promised": promised})


def _sentences(report: BuildReport) -> str:
    manifest = report.manifest
    point = next(p for p in manifest.frontier if p.params == manifest.default_search[manifest.shards[0].kind])
    effort = ", ".join(f"{name} {value}" for name, value in point.params.items() if value) or "exact"
    done = "built" if report.built else "nothing to do: an identical build made"
    lines = [
        f"{done} generation {manifest.id} of {manifest.entity_type}: {manifest.rows} rows, "
        f"{len(manifest.shards)} {manifest.shards[0].kind} shards, {'live' if report.live else 'not live'}, "
        f"{report.seconds:.1f} s",
        f"recall@10 {point.recall_at_10:.4f}, recall@100 {point.recall_at_100:.4f} at p50 {point.p50_ms:.2f} ms, p95 "
        f"{point.p95_ms:.2f} ms, one thread, {effort} ({manifest.query_source})",
    ]
    if manifest.quarantine.total:
        lines.append(f"left out {manifest.quarantine.total} of {manifest.rows_in} rows: {manifest.quarantine.counts}")
    lines += [f"warning: {warning}" for warning in manifest.warnings]
    return "\n".join(lines)


def _summary(report: BuildReport, expected: Estimate) -> dict[str, Any]:
    manifest = report.manifest
    return {
        "generation": manifest.id,
        "path": str(report.path),
        "built": report.built,
        "live": report.live,
        "removed": report.removed,
        "rows": manifest.rows,
        "quarantined": manifest.quarantine.counts,
        "kind": str(manifest.shards[0].kind),
        "shards": len(manifest.shards),
        "default_search": {str(kind): params for kind, params in manifest.default_search.items()},
        "frontier": [point.model_dump() for point in manifest.frontier],
        "warnings": manifest.warnings,
        "seconds": round(report.seconds, 3),
        "estimate": expected.model_dump(mode="json"),
    }
