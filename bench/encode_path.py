"""The way of query texts into vectors beside the tower alone: queries per second and latency, cache cold and warm.

Texts are the shipped catalogue's judged queries and the first words of its titles, each sent once (cold) and then again
(warm). Callers are threads in a closed loop: each sends its next query when the last one is answered. The tower alone
has all texts at once, cut into the same batches, right before and right after each cold run; a ratio is of rates in the
same run. `tower busy` is the share of a cold run in which the tower was at work, which other work on the machine
disturbs less. Latency and rate come from the same repeat, the one of the median ratio (cold) or rate (warm). The last
line is one JSON object.

    python -m bench.encode_path --checkpoint TOWER
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.arguments import COUNT, THREADS, check, parser_of
from retrieval import catalogue
from retrieval.serving.calls import Limits
from retrieval.serving.text.encode import TextTower, embed
from retrieval.serving.text.path import TextPath
from retrieval.serving.text.settings import EncodeSettings
from retrieval.towers.checkpoint import write_checkpoint
from retrieval.towers.pretrained import load_default
from retrieval.towers.projection import fit_projection
from retrieval.towers.query import QueryTower
from retrieval.towers.text import normalise_text
from retrieval.types import F32

CONCURRENCY = (1, 8, 64, 256)
TITLE_WORDS = 4
D = 256
WARM_ROUNDS = 20


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = parser_of("encode", __doc__)
    parser.add_argument(
        "--checkpoint", type=Path, help="query tower; else the default encoder with a fitted projection"
    )
    parser.add_argument("--queries", type=int, default=1_500)
    parser.add_argument("--callers", type=int, nargs="+", default=CONCURRENCY)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of the tower, per batch")
    parser.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--max-batch", type=int, default=EncodeSettings().max_batch)
    parser.add_argument("--max-wait-ms", type=float, default=EncodeSettings().max_wait_ms)
    args = parser.parse_args(arguments)
    check(args, queries=COUNT, callers=THREADS, repeats=COUNT, threads=THREADS)
    texts = _texts(args.queries)
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = args.checkpoint or _fitted(Path(scratch) / "tower", texts)
        tower = QueryTower.load(checkpoint, threads=args.threads, precision=args.precision)
    settings = EncodeSettings(max_batch=args.max_batch, max_wait_ms=args.max_wait_ms)
    tower.encode(texts[:128])
    one_by_one = _one_by_one(tower, texts[:300])
    print(f"tower alone, one text at a time: p50 {one_by_one['p50_ms']:.2f} ms, p99 {one_by_one['p99_ms']:.2f} ms")
    print(f"{len(texts)} texts, d {tower.d}, {tower.precision}, {args.threads} torch threads, batch {args.max_batch}")
    print("callers  cache  queries/s   p50 ms   p99 ms  texts/batch  alone/s  ratio  tower busy")
    rows = []
    for callers in args.callers:
        cold, warm = measure(tower, settings, texts, callers, args.repeats)
        print(
            f"{callers:7}  cold  {cold['per_s']:10.0f} {cold['p50_ms']:8.2f} {cold['p99_ms']:8.2f} "
            f"{cold['texts_per_batch']:12.1f} {cold['alone_per_s']:8.0f} {cold['ratio']:6.3f} "
            f"{cold['tower_busy']:11.3f}"
        )
        print(f"{callers:7}  warm  {warm['per_s']:10.0f} {warm['p50_ms']:8.4f} {warm['p99_ms']:8.4f}")
        rows += [cold, warm]
    added = _hit_cost(tower, settings, texts)
    print(f"a hit costs {added['hit_us']:.1f} us, {added['embed_us']:.1f} us with the checks of a call around it")
    figures = {"texts": len(texts), "d": tower.d, "precision": str(tower.precision), "threads": args.threads}
    print(json.dumps({**figures, "max_batch": args.max_batch, "one_by_one": one_by_one, "rows": rows, **added}))


def measure(
    tower: TextTower, settings: EncodeSettings, texts: list[str], callers: int, repeats: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The figures of distinct texts with a cold and with a warm cache, each the median of the repeats."""
    cold, warm = [], []
    for _ in range(repeats):
        timed = _Timed(tower)
        path = TextPath(timed, settings)
        before = _alone(tower, texts, settings.max_batch)
        run = _closed_loop(path, texts, callers)
        after = _alone(tower, texts, settings.max_batch)
        alone = (before + after) / 2
        batch = path.stats().batch
        assert batch.encoded == len(texts)  # each text once and none of them from the cache
        cold.append(
            {
                **run,
                "cache": "cold",
                "texts_per_batch": round(batch.encoded / batch.batches, 1),
                "alone_per_s": round(alone, 1),
                "tower_busy": round(timed.seconds * run["per_s"] / len(texts), 3),
                "ratio": round(run["per_s"] / alone, 3),
            }
        )
        warm.append({**_closed_loop(path, texts * WARM_ROUNDS, callers), "cache": "warm"})
        assert path.stats().batch.encoded == len(texts)
        path.close()
    return _median(cold, "ratio"), _median(warm, "per_s")


class _Timed:
    """A tower that adds up the seconds it was at work."""

    def __init__(self, tower: TextTower) -> None:
        self.space_id, self.compatible, self.d = tower.space_id, tower.compatible, tower.d
        self.seconds = 0.0
        self._tower = tower

    def encode(self, texts: Sequence[str]) -> F32:
        begun = time.perf_counter()
        try:
            return self._tower.encode(texts)
        finally:
            self.seconds += time.perf_counter() - begun


def _closed_loop(path: TextPath, texts: Sequence[str], callers: int) -> dict[str, Any]:
    nanoseconds = np.zeros(len(texts), np.int64)
    start = threading.Barrier(callers + 1)

    def call(first: int) -> None:
        start.wait()
        for place in range(first, len(texts), callers):
            begun = time.perf_counter_ns()
            path.encode([texts[place]])
            nanoseconds[place] = time.perf_counter_ns() - begun

    threads = [threading.Thread(target=call, args=(first,)) for first in range(callers)]
    for thread in threads:
        thread.start()
    start.wait()
    begun = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begun
    assert nanoseconds.all()  # a caller that died would make the rest look fast
    p50, p99 = np.percentile(nanoseconds, [50, 99]) / 1e6
    return {
        "callers": callers,
        "per_s": round(len(texts) / seconds, 1),
        "p50_ms": round(float(p50), 4),
        "p99_ms": round(float(p99), 4),
    }


def _alone(tower: TextTower, texts: list[str], max_batch: int) -> float:
    begun = time.perf_counter()
    for start in range(0, len(texts), max_batch):
        tower.encode(texts[start : start + max_batch])
    return len(texts) / (time.perf_counter() - begun)


def _one_by_one(tower: TextTower, texts: list[str]) -> dict[str, float]:
    times = []
    for text in texts:
        begun = time.perf_counter_ns()
        tower.encode([text])
        times.append(time.perf_counter_ns() - begun)
    p50, p99 = np.percentile(times, [50, 99]) / 1e6
    return {"p50_ms": round(float(p50), 4), "p99_ms": round(float(p99), 4)}


def _hit_cost(tower: QueryTower, settings: EncodeSettings, texts: list[str]) -> dict[str, float]:
    """Microseconds of one hit on one thread: of the way itself, and of `embed`, which checks text and vector too."""
    path, limits = TextPath(tower, settings), Limits()
    path.encode(texts)
    hit, whole = [], []
    for _ in range(5):
        begun = time.perf_counter()
        for text in texts:
            path.encode([text])
        hit.append((time.perf_counter() - begun) / len(texts))
        begun = time.perf_counter()
        for text in texts:
            embed([text], path, limits)
        whole.append((time.perf_counter() - begun) / len(texts))
    path.close()
    return {"hit_us": round(1e6 * float(np.median(hit)), 2), "embed_us": round(1e6 * float(np.median(whole)), 2)}


def _median(rows: list[dict[str, Any]], by: str) -> dict[str, Any]:
    return sorted(rows, key=lambda row: row[by])[len(rows) // 2]


def _texts(count: int) -> list[str]:
    judged = catalogue.judgments().column("query").to_pylist()
    titles = [" ".join(title.split()[:TITLE_WORDS]) for title in catalogue.products().column("title").to_pylist()]
    return list(dict.fromkeys(normalise_text(text.lower()) for text in judged + titles if text))[:count]


def _fitted(out: Path, texts: list[str]) -> Path:
    encoder = load_default(max_tokens=64)
    write_checkpoint(
        out,
        encoder=encoder,
        projection=fit_projection(encoder.encode(texts[:1_024]), D),
        text_columns=("title",),
        provenance={"encoder": "default", "projection": "fitted to the queries"},
    )
    return out


if __name__ == "__main__":
    main()
