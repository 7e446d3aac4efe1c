"""Generations of every format version ever shipped open, and answer what they answered when they were written."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from index_builders.check import check_generation
from retrieval.store import Store
from retrieval.types import IdType

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("make_golden", HERE / "make_golden.py")
assert _spec is not None
assert _spec.loader is not None
make_golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make_golden)


@pytest.mark.parametrize("entity_type", list(make_golden.ENTITIES))
def test_format_1_opens_and_answers(entity_type):
    store = Store(HERE / "format-1")
    path = store.generation_path(entity_type, store.current(entity_type))
    assert [verdict for verdict in check_generation(path) if not verdict.good] == []
    manifest = store.manifest(entity_type, path.name)
    kind, rows, metric, _ = make_golden.ENTITIES[entity_type]
    assert (manifest.schema_version, manifest.shards[0].kind, manifest.rows, manifest.metric) == (1, kind, rows, metric)
    assert manifest.id_type is (IdType.INT64 if entity_type == "flat_items" else IdType.STRING)
    with np.load(HERE / "format-1/answers.npz") as stored:
        ids, scores = stored[f"{entity_type}.ids"], stored[f"{entity_type}.scores"]
    found_ids, found_scores = make_golden.answer(store, entity_type)
    np.testing.assert_allclose(found_scores, scores, rtol=1e-5, atol=1e-6)
    assert np.array_equal(found_ids, ids)
