"""Writes the golden generations of format version 1. Run once per format version, never to make a test pass:

    python tests/golden/make_golden.py

One store with three entity types, one per index kind; answers.npz holds what each answered when it was written.
"""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.data import clustered, clustered_queries
from index_builders.build import build
from index_builders.settings import make_settings
from retrieval.indexes import open_index
from retrieval.params import SEARCH_PARAMS, make_params
from retrieval.store import Store
from retrieval.topk import merge
from retrieval.types import NO_ROW

HERE = Path(__file__).parent / "format-1"
D, Q, K = 32, 8, 10
# entity type -> kind, rows, metric, id of row i
ENTITIES = {
    "flat_items": ("flat", 200, "ip", lambda i: 1_000_000_007 * i - 5),
    "hnsw_items": ("hnsw", 300, "cosine", lambda i: f"https://example.org/ключ/{i}"),
    "ivfpq_items": ("ivfpq", 640, "l2", lambda i: f"item-{i:04d}"),
}


def queries() -> np.ndarray:
    return clustered_queries(Q, D, seed=7, clusters=12, intrinsic=12)


def answer(store: Store, entity_type: str) -> tuple[np.ndarray, np.ndarray]:
    """Merged answer at the default effort: ids [q, k] as strings, scores float32 [q, k]."""
    generation = store.open(entity_type, store.current(entity_type))
    all_ids, all_scores = [], []
    for q in queries():
        ids, scores = [], []
        for shard in generation.shards:
            kind = shard.manifest.kind
            params = make_params(SEARCH_PARAMS[kind], generation.manifest.default_search[kind])
            found = open_index(kind, shard.path).search(q[None], K, params)
            real = found.rows[0] != NO_ROW
            ids += shard.rows().column("id").take(pa.array(found.rows[0][real])).to_pylist()
            scores += found.scores[0][real].tolist()
        best, best_scores = merge(np.array(ids), np.array(scores, dtype=np.float32), K)
        all_ids.append(best.astype(str))
        all_scores.append(best_scores)
    return np.stack(all_ids), np.stack(all_scores)


def main() -> None:
    shutil.rmtree(HERE, ignore_errors=True)
    answers = {}
    with tempfile.TemporaryDirectory() as scratch:
        for entity_type, (kind, rows, metric, name) in ENTITIES.items():
            x = clustered(rows, D, seed=7, clusters=12, intrinsic=12)
            flat = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), D)
            columns = {"id": [name(i) for i in range(rows)], "embedding": flat, "price": np.arange(rows) / 4}
            source = Path(scratch) / f"{entity_type}.parquet"
            pq.write_table(pa.table(columns), source)
            settings = make_settings(
                source=source, store=HERE, entity_type=entity_type, space_id="golden", metric=metric, kind=kind,
                shards=2, workers=0, verify_queries=20, seed=7,
            )  # fmt: skip
            build(settings)
            (HERE / entity_type / "build.lock").unlink()
            ids, scores = answer(Store(HERE), entity_type)
            answers |= {f"{entity_type}.ids": ids, f"{entity_type}.scores": scores}
    np.savez(HERE / "answers.npz", **answers)
    print(json.dumps({name: list(values.shape) for name, values in answers.items()}))


if __name__ == "__main__":
    main()
