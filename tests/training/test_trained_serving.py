"""A checkpoint trained against old frozen embeddings, behind a real server: it searches the old index, and no other."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from tiny_store import make_store
from tiny_training import write_all

from retrieval.client import RetrievalClient, Vector
from retrieval.errors import SpaceMismatch
from retrieval.serving.config import make_settings as make_server_settings
from retrieval.serving.server import Server, open_engine
from retrieval.topk import normalise
from retrieval.towers.query import QueryTower
from retrieval.training.config import make_settings
from retrieval.training.trainer import Trainer


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_all(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module")
def checkpoint(body: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("trained")
    run = {**body["run"], "steps": 150, "learning_rate": 0.02, "learning_rate_tokens": 0.02}
    Trainer(make_settings({**body, "run": run}, where="test"), work=place / "work").run(place / "out")
    return place / "out"


@pytest.fixture(scope="module")
def client(
    body: dict[str, Any], checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RetrievalClient]:
    table = pq.read_table(body["data"]["entities"][0])
    old = normalise(np.array(table["old"].to_pylist(), dtype=np.float32))
    ids = np.array(table["id"].to_pylist(), dtype=object)
    store = tmp_path_factory.mktemp("old") / "store"
    make_store(store, len(ids), 16, 2, "string", space_id="old-space", vectors=old, ids=ids)
    make_store(store, len(ids), 16, 1, "string", entity_type="product", space_id="other-space", vectors=old, ids=ids)
    settings = make_server_settings(store=store, checkpoint=checkpoint, port=0, torch_threads=1)
    server = Server(open_engine(settings), settings)
    with RetrievalClient(f"127.0.0.1:{server.start()}") as client:
        yield client
    server.stop(0).wait()


def test_the_server_says_which_old_space_may_be_searched(client: RetrievalClient, checkpoint: Path) -> None:
    described = client.describe()
    assert list(described.compatible_space_ids) == ["old-space"]
    assert QueryTower.load(checkpoint).space_id not in {"old-space", "other-space"}


def test_new_queries_find_their_entities_in_the_old_index(client: RetrievalClient, body: dict[str, Any]) -> None:
    pairs = pq.read_table(body["data"]["pairs"]).to_pylist()
    wanted = [(pair["query"], pair["id"]) for pair in pairs if pair["task"] == "frozen"]
    found = [client.search(query, entity_types=["pin"], k=5) for query, _ in wanted]
    hits = np.mean(
        [
            entity in [each.id for each in answer.candidates[0]]
            for (_, entity), answer in zip(wanted, found, strict=True)
        ]
    )
    assert {source.space_id for answer in found for source in answer.sources} == {"old-space"}
    assert hits >= 0.6, hits  # measured: 0.80; by chance 5 of 40, 0.125


def test_an_index_of_a_space_that_is_not_listed_is_refused(client: RetrievalClient, checkpoint: Path) -> None:
    own = QueryTower.load(checkpoint).space_id
    said = f"a query of space {own} cannot search an index of space other-space"
    with pytest.raises(SpaceMismatch, match=said):
        client.search("golden clock", entity_types=["product"], k=5)
    with pytest.raises(SpaceMismatch, match="a query of space other-space cannot search an index of space old-space"):
        client.search(Vector(values=np.ones(16, dtype=np.float32), space_id="other-space"), entity_types=["pin"], k=5)
