"""`retrieval upsert` of rows that have texts only: embedded by the checkpoint first, then as fresh as any."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_tower import make_tiny_checkpoint

from index_builders.build import build
from index_builders.embed import embed, plan_embedding
from index_builders.settings import make_settings as build_settings
from retrieval.cli.upsert import upsert
from retrieval.client import RetrievalClient, Vector
from retrieval.errors import InvalidArgument, InvalidData, Unavailable
from retrieval.serving.config import make_settings
from retrieval.serving.server import Server, open_engine
from retrieval.towers.entity import EntityTower


def table(path: Path, **texts: str) -> Path:
    rows = {"id": list(texts), "title": list(texts.values())}
    pq.write_table(pa.table(rows, schema=pa.schema({"id": pa.string(), "title": pa.string()})), path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tower") / "ck", d=64)


@pytest.fixture(scope="module")
def target(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server over products that the checkpoint embedded."""
    folder = tmp_path_factory.mktemp("products")
    source = table(folder / "products.parquet", **{f"p{i}": f"red cup {i}" for i in range(30)})
    tower = EntityTower.load(checkpoint)
    embed(plan_embedding(tower, source, folder / "embedded"), tower)
    build(
        build_settings(
            source=folder / "embedded", store=folder / "store", entity_type="product", kind="flat", workers=0
        )
    )
    settings = make_settings(store=folder / "store", port=0)
    engine = open_engine(settings)
    server = Server(engine, settings)
    yield f"127.0.0.1:{server.start()}"
    server.stop(0).wait()
    server.operations.close()
    engine.close()


def test_texts_are_embedded_and_durable(
    target: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = table(tmp_path / "fresh.parquet", p3="a blue lamp", new="green shoes", empty="")
    upsert(source, "product", target=target, checkpoint=checkpoint, as_json=True)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "1 rows have no text and are left out, for example empty"
    assert json.loads(said[-1])["entities"] == 2
    tower = EntityTower.load(checkpoint)
    wanted = tower.encode(pq.read_table(source).slice(0, 2))
    with RetrievalClient(target) as client:
        for id_, vector in zip(["p3", "new"], wanted, strict=True):
            query = Vector(values=vector, space_id=tower.space_id)
            until = 50
            while until and not np.isclose(client.score(query, "product", [id_]).scores[0], 1, atol=1e-3):
                until -= 1
            assert until, f"{id_} does not have the vector of its new text"
        assert not client.score(query, "product", ["empty"]).found[0]


def test_what_does_not_fit_together_is_refused(target: str, checkpoint: Path, tmp_path: Path) -> None:
    source = table(tmp_path / "fresh.parquet", p3="a blue lamp")
    with pytest.raises(InvalidArgument, match=r"--space-id other is not that of .*ck, .*: leave it out"):
        upsert(source, "product", target=target, checkpoint=checkpoint, space_id="other")
    with pytest.raises(InvalidData, match=r"no column 'embedding'.*--checkpoint"):
        upsert(source, "product", target=target)
    held = tmp_path / "held.parquet"
    pq.write_table(pq.read_table(source).append_column("embedding", pa.array([[1.0] * 64])), held)
    with pytest.raises(InvalidData, match="has a column 'embedding' already: drop or rename it"):
        upsert(held, "product", target=target, checkpoint=checkpoint)


def test_a_server_that_is_not_there_is_found_out_before_anything_is_embedded(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index_builders.embed.embed", lambda *a, **b: pytest.fail("embedded for nobody"))
    source = table(tmp_path / "fresh.parquet", p3="a blue lamp")
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9"):
        upsert(source, "product", target="127.0.0.1:9", checkpoint=checkpoint, timeout=2.0)
