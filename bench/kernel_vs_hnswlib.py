"""Our graph search beside bare hnswlib on the same graph, in one run: python -m bench.kernel_vs_hnswlib --cache DIR.

Recall is tie-aware and computed here from the returned rows against exact float32 search, whatever scores engines
return. Times are the mean over queries of each query's fastest repeat, and the engines take turns from repeat to
repeat, so that other work on the machine falls on both. Prints a table, and one JSON object as its last line.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import hnswlib
import numpy as np

from bench.arguments import COUNT, DIMS, THREADS, check, parser_of
from bench.data import clustered, clustered_queries
from index_builders.hnsw import export, read_saved_graph
from retrieval import kernel, topk
from retrieval.indexes.hnsw import HnswIndex
from retrieval.params import HnswBuild, HnswSearch
from retrieval.types import F32, U8, AnyArray, Metric

SEED = 1
EFS = {100: (120, 150, 170, 180, 190, 200, 250, 300), 10: (30, 40, 50, 65, 80, 100, 150)}
TARGET_RECALL = {100: 0.965, 10: 0.95}
FILTER_SHARES = (0.5, 0.1, 0.01, 0.001)
Search: TypeAlias = Callable[[F32], AnyArray]  # queries [q, d] -> rows of the data [q, k]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything and print it."""
    parser = parser_of("kernel", __doc__)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--dims", type=int, default=256)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="for building")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "retrieval-bench-kernel")
    options = parser.parse_args(arguments)
    check(options, rows=(1_000, 10**9), dims=DIMS, queries=COUNT, repeats=COUNT, threads=THREADS)
    bench = Bench(options.rows, options.dims, options.queries, options.repeats, options.threads, options.cache)
    result = {
        "machine": {"cpu": _cpu_model(), "cpus": os.cpu_count(), "level": kernel.levels()[0]},
        "rows": options.rows,
        "dim": options.dims,
        "build": bench.build,
        "single": {str(k): bench.sweep(k) for k in EFS},
        "threads": bench.threads_ratio(),
        "filters": bench.filters(),
        "open": bench.open_times(),
        "resident": bench.resident(),
    }
    print(json.dumps(result))


class Bench:
    """The data, both engines over one graph, and the measurements."""

    def __init__(self, n: int, d: int, q: int, repeats: int, threads: int, cache: Path) -> None:
        self.repeats = repeats
        self.x, self.xq = clustered(n, d, seed=SEED), clustered_queries(q, d, seed=SEED)
        cache.mkdir(parents=True, exist_ok=True)
        self.graph_file, self.shard = cache / f"hnswlib-{n}x{d}.bin", cache / f"shard-{n}x{d}"
        self.build = self._build(threads)
        self.order = np.load(self.shard / "order.npy")
        self.ours = HnswIndex.open(self.shard)
        self.peer = hnswlib.Index("ip", d)
        self.peer.load_index(str(self.graph_file))
        self.truth = {k: topk.exact_search(self.xq, self.x, k, Metric.COSINE)[1] for k in EFS}

    def _build(self, threads: int) -> dict[str, Any]:
        n, d = self.x.shape
        times: dict[str, Any] = {"cached": self.graph_file.exists()}
        if not self.graph_file.exists():
            started = time.perf_counter()
            index = hnswlib.Index("ip", d)
            index.init_index(n, M=16, ef_construction=200, random_seed=SEED)
            index.add_items(self.x, num_threads=threads)
            times["graph_s"] = time.perf_counter() - started
            index.save_index(str(self.graph_file))
        if not (self.shard / "order.npy").exists():
            self.shard.mkdir(exist_ok=True)
            started = time.perf_counter()
            saved = read_saved_graph(self.graph_file)
            params = HnswBuild(m=16, ef_construction=200)
            report = export(self.x, saved, self.shard, params=params, metric=Metric.COSINE, seed=SEED, threads=threads)
            times["export_s"] = time.perf_counter() - started
            np.save(self.shard / "order.npy", np.asarray(report["order"]))
        print("build", times, flush=True)
        return times

    def search_ours(self, k: int, ef: int, threads: int = 1) -> Search:
        """Our search as a function of the queries."""
        params = HnswSearch(ef=ef)
        return lambda xq: self.ours.search(xq, k, params, threads=threads).rows

    def search_peer(self, k: int, ef: int) -> Search:
        """hnswlib's search as a function of the queries; ef is state there, so it is set at each use."""

        def run(xq: F32) -> AnyArray:
            self.peer.set_ef(ef)
            return np.asarray(self.peer.knn_query(xq, k=k, num_threads=1)[0])

        return run

    def recall(self, rows: AnyArray, truth: F32) -> float:
        """Tie-aware recall of rows of the data [q, k], -1 for none; duplicates are an error."""
        found = np.einsum("qkd,qd->qk", self.x[rows], self.xq)
        for line in rows:
            present = line[line >= 0]
            assert len(np.unique(present)) == len(present), "an engine returned a row twice"
        return topk.recall(np.where(rows >= 0, found, -np.inf).astype(np.float32), truth)

    def to_data(self, rows: AnyArray) -> AnyArray:
        """Rows of the shard as rows of the data."""
        return np.where(rows >= 0, self.order[rows], -1)

    def sweep(self, k: int) -> dict[str, Any]:
        """Recall and time of both engines at each ef, and the ratio at the least ef that reaches the target."""
        table: list[dict[str, float]] = []
        for ef in EFS[k]:
            ours, peer = self.search_ours(k, ef), self.search_peer(k, ef)
            single = self.fastest([ours, peer])
            batch = [min(_seconds(f, self.xq) for _ in range(self.repeats)) / len(self.xq) * 1e6 for f in (ours, peer)]
            row = {
                "ef": ef,
                "recall": self.recall(self.to_data(ours(self.xq)), self.truth[k]),
                "us": single[0],
                "batch_us": batch[0],
                "peer_recall": self.recall(peer(self.xq).astype(np.int64), self.truth[k]),
                "peer_us": single[1],
                "peer_batch_us": batch[1],
            }
            table.append(row)
            print(f"k {k:3d} " + _line(row), flush=True)
        target = TARGET_RECALL[k]
        ours_first = next((row for row in table if row["recall"] >= target), None)
        peer_first = next((row for row in table if row["peer_recall"] >= target), None)
        out: dict[str, Any] = {"target_recall": target, "table": table}
        if ours_first and peer_first:
            out["ratio_single"] = ours_first["us"] / peer_first["peer_us"]
            out["ratio_batch"] = ours_first["batch_us"] / peer_first["peer_batch_us"]
            ratios = f"{out['ratio_single']:.3f} of hnswlib's time, batch {out['ratio_batch']:.3f}"
            print(f"k {k:3d} at recall >= {target}: {ratios}", flush=True)
        return out

    def fastest(self, searches: list[Search]) -> list[float]:
        """Microseconds per single query of each search: mean over queries of the fastest repeat."""
        best = np.full((len(searches), len(self.xq)), np.inf)
        for _ in range(self.repeats + 1):  # the first round warms up
            for s, search in enumerate(searches):
                for i in range(len(self.xq)):
                    best[s, i] = min(best[s, i], _seconds(search, self.xq[i : i + 1]))
        return [float(v) * 1e6 for v in best.mean(axis=1)]

    def threads_ratio(self) -> dict[str, float]:
        """Throughput of a batch on two threads over that on one."""
        one, two = self.search_ours(100, 200, 1), self.search_ours(100, 200, 2)
        pairs = [(_seconds(one, self.xq), _seconds(two, self.xq)) for _ in range(10 * self.repeats)]
        out = {"ratio": min(a for a, _ in pairs) / min(b for _, b in pairs)}
        print("2 threads", _line(out), flush=True)
        return out

    def filters(self) -> list[dict[str, Any]]:
        """Recall and time under filters of each selectivity, and with half of the rows deleted."""
        k, ef, n = 100, 200, len(self.x)
        rng = np.random.default_rng(SEED)
        unfiltered = self.search_ours(k, ef)
        base_recall = self.recall(self.to_data(unfiltered(self.xq)), self.truth[k])
        table: list[dict[str, Any]] = []
        for name, share in [*(("allowed", s) for s in FILTER_SHARES), ("deleted", 0.5)]:
            flags = rng.random(n) < share  # of shard rows
            bits = np.packbits(flags, bitorder="little")
            search = self._filtered(k, ef, **{"allow" if name == "allowed" else "deleted": bits})
            by_data = np.empty(n, dtype=np.bool_)
            by_data[self.order] = flags if name == "allowed" else ~flags
            truth = topk.exact_search(self.xq, self.x, k, Metric.COSINE, allow=by_data)[1]
            us = self.fastest([unfiltered, search])
            row = {
                "filter": name,
                "share": share,
                "recall": self.recall(self.to_data(search(self.xq)), truth),
                "unfiltered_recall": base_recall,
                "us": us[1],
                "ratio": us[1] / us[0],
            }
            table.append(row)
            print("filter", _line(row), flush=True)
        return table

    def _filtered(self, k: int, ef: int, *, allow: U8 | None = None, deleted: U8 | None = None) -> Search:
        params = HnswSearch(ef=ef)
        return lambda xq: self.ours.search(xq, k, params, allow=allow, deleted=deleted).rows

    def open_times(self) -> dict[str, float]:
        """Milliseconds to open the shard, all checks included, and to load hnswlib's file; pages are cached."""
        ours = min(_seconds(HnswIndex.open, self.shard) for _ in range(5)) * 1e3
        peer = min(_seconds(_load_peer, (self.graph_file, self.x.shape[1])) for _ in range(2)) * 1e3
        out = {"ms": ours, "peer_ms": peer}
        print("open", _line(out), flush=True)
        return out

    def resident(self) -> dict[str, float]:
        """MiB that a fresh process needs to answer every query: its own memory, and all mapped files in full."""
        context = multiprocessing.get_context("spawn")
        out = {}
        with context.Pool(1, maxtasksperchild=1) as pool:
            out["mib"] = pool.apply(_resident, (str(self.shard), "", self.xq, True))
            out["mib_vectors_on_disk"] = pool.apply(_resident, (str(self.shard), "", self.xq, False))
            out["peer_mib"] = pool.apply(_resident, ("", str(self.graph_file), self.xq, True))
        out["ratio"] = out["mib"] / out["peer_mib"]
        out["ratio_vectors_on_disk"] = out["mib_vectors_on_disk"] / out["peer_mib"]
        print("resident", _line(out), flush=True)
        return out


def _load_peer(where: tuple[Path, int]) -> hnswlib.Index:
    index = hnswlib.Index("ip", where[1])
    index.load_index(str(where[0]))
    return index


def _resident(shard: str, graph_file: str, xq: F32, touch_all: bool) -> float:
    before, own_before = _status_mib("VmRSS"), _status_mib("RssAnon")
    if graph_file:
        peer = _load_peer((Path(graph_file), xq.shape[1]))
        peer.knn_query(xq, k=100, num_threads=1)
        return _status_mib("VmRSS") - before
    index = HnswIndex.open(Path(shard))
    index.search(xq, 100, HnswSearch(ef=200))
    # what the process owns, and every mapped byte whether or not a page of it was touched
    files = [f for f in Path(shard).glob("*.npy") if f.name != "order.npy" and (touch_all or f.name != "vectors.npy")]
    return _status_mib("RssAnon") - own_before + sum(f.stat().st_size for f in files) / 2**20


def _status_mib(name: str) -> float:
    text = Path("/proc/self/status").read_text()
    return int(text.split(name + ":")[1].split()[0]) / 1024


def _seconds(function: Callable[[Any], Any], argument: Any) -> float:
    started = time.perf_counter_ns()
    function(argument)
    return (time.perf_counter_ns() - started) / 1e9


def _line(row: dict[str, Any]) -> str:
    return "  ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items()
    )


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
        return text.split("model name")[1].split(":")[1].split("\n")[0].strip()
    except (OSError, IndexError):
        return platform.processor()


if __name__ == "__main__":
    main()
