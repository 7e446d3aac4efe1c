"""An index that lives: recall@100 and time with rows deleted and with fresh entities, before and after a restart.

A generation of clustered vectors at its default effort, searched in process, one query at a time. Deletes and upserts
go through the log of fresh entities as a server's do: first into an engine that runs, then the engine is opened anew.
Every recall is against exact search over what is there at that moment, every ratio against the untouched index of the
same kind. The last line is one JSON object.

    python -m bench.life --rows 100000
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.arguments import DIMS, check, parser_of
from bench.data import clustered, clustered_queries
from bench.load_store import ENTITY_TYPE, SEED, SPACE, make_store
from retrieval import topk
from retrieval.delta import Deletes, DeltaLog, Upserts
from retrieval.serving.calls import VectorQuery, Wanted
from retrieval.serving.config import make_settings
from retrieval.serving.delta.keeper import DeltaKeeper, header_of
from retrieval.serving.engine import Engine
from retrieval.serving.server import open_engine
from retrieval.types import F32, AnyArray, Metric

K, QUERIES, REPEATS = 100, 200, 3
CASES = ((0.0, 0.0), (0.2, 0.0), (0.5, 0.0), (0.0, 0.01), (0.0, 0.05))  # shares deleted, shares written again
_AT_ONCE = 1_000


def main(arguments: Sequence[str] | None = None) -> None:
    """Build, delete, write, search, print."""
    parser = parser_of("life", __doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dims", type=int, default=128)
    parser.add_argument("--kinds", nargs="+", choices=("hnsw", "ivfpq", "flat"), default=["hnsw", "ivfpq"])
    chosen = parser.parse_args(arguments)
    check(chosen, rows=(10 * K, 10**9), dims=DIMS)
    print(f"{chosen.rows:,} x {chosen.dims}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.2f}")
    print("kind    deleted  fresh   when      recall@100      us   ratio   opening s")
    figures = []
    for kind in chosen.kinds:
        with tempfile.TemporaryDirectory() as scratch:
            store = Path(scratch) / "store"
            make_store(store, rows=chosen.rows, d=chosen.dims, kind=kind, shards=1)
            plain = None
            for deleted, fresh in CASES:
                for row in _case(store, chosen.rows, chosen.dims, deleted, fresh):
                    plain = plain or row["us"]
                    row |= {"kind": kind, "ratio": round(row["us"] / plain, 3)}
                    figures.append(row)
                    print(
                        f"{kind:7} {100 * deleted:5.0f} % {100 * fresh:4.0f} %   {row['when']:8} {row['recall']:10.4f}"
                        f" {row['us']:9.1f} {row['ratio']:7.2f} {row['open_s']:9.2f}",
                        flush=True,
                    )
    print(json.dumps({"rows": chosen.rows, "d": chosen.dims, "figures": figures}))


def _case(store: Path, rows: int, d: int, deleted: float, fresh: float) -> list[dict[str, Any]]:
    home = store / ENTITY_TYPE / "delta"
    shutil.rmtree(home, ignore_errors=True)
    x, ids = clustered(rows, d, seed=SEED), np.random.default_rng(SEED).permutation(rows).astype(np.int64) + 10**9
    rng = np.random.default_rng(5)
    chosen = rng.permutation(rows)
    gone, written = chosen[: int(deleted * rows)], chosen[rows - int(fresh * rows) :]
    new = clustered_queries(len(written), d, seed=SEED + 1) if len(written) else np.zeros((0, d), np.float32)
    engine, keeper, seconds = _open(store)
    log = DeltaLog(home, header_of(engine.shown.base[ENTITY_TYPE].about.manifest))
    for first in range(0, len(gone), _AT_ONCE):
        log.append(Deletes(ids=ids[gone[first : first + _AT_ONCE]].tolist()))
    for first in range(0, len(written), _AT_ONCE):
        part = slice(first, first + _AT_ONCE)
        log.append(Upserts(ids=ids[written[part]].tolist(), vectors=new[part], attributes=[{}] * len(new[part])))
    keeper.look()
    now = x.copy()
    now[written] = new
    alive = np.ones(rows, bool)
    alive[gone] = False
    found = [_measured(engine, ids[alive], now[alive], d, "running", seconds)]
    engine.close()
    engine, keeper, seconds = _open(store)
    found.append(_measured(engine, ids[alive], now[alive], d, "restart", seconds))
    engine.close()
    return [{"deleted": deleted, "fresh": fresh, **each} for each in found]


def _open(store: Path) -> tuple[Engine, DeltaKeeper, float]:
    began = time.perf_counter()
    settings = make_settings(store=store, live_recall={"share": 0.0})
    engine = open_engine(settings)
    return engine, DeltaKeeper(engine, store, settings.delta), time.perf_counter() - began


def _measured(engine: Engine, ids: AnyArray, xb: F32, d: int, when: str, seconds: float) -> dict[str, Any]:
    xq = clustered_queries(QUERIES, d, seed=SEED)
    _, true = topk.exact_search(xq, xb, K, Metric.COSINE)
    row_of = {int(id_): row for row, id_ in enumerate(ids.tolist())}
    exact, took = np.full((QUERIES, K), -np.inf, np.float32), []
    for repeat in range(REPEATS):
        for number, query in enumerate(xq):
            began = time.perf_counter_ns()
            answer = engine.search(VectorQuery(values=query, space_id=SPACE), Wanted(k=K))
            took.append(time.perf_counter_ns() - began)
            if repeat == 0:
                # an id that is not there any more would be a KeyError: nothing deleted may come back
                rows = [row_of[id_] for id_ in answer.rankings[0].ids.tolist()]
                exact[number, : len(rows)] = -np.sort(-(xb[rows] @ query))
    return {
        "when": when,
        "recall": round(topk.recall(exact, true), 4),
        "us": round(float(np.median(took)) / 1e3, 1),
        "open_s": round(seconds, 2),
    }


if __name__ == "__main__":
    main()
