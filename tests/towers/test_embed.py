"""Embedding a dataset: the output is what the tower says, a stopped run continues, and bad sources are one sentence."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from tiny_tower import make_tiny_checkpoint

from index_builders import embed as module
from index_builders.embed import embed, embed_part, finished_part, plan_embedding
from retrieval.cli.embed import embed as embed_command
from retrieval.errors import InvalidArgument, InvalidData, InvalidParams, StoreError
from retrieval.towers.entity import EntityTower

ROWS = 53


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> EntityTower:
    return EntityTower.load(make_tiny_checkpoint(tmp_path_factory.mktemp("tower") / "checkpoint", d=16), threads=1)


def entities() -> pa.Table:
    return pa.table({
        "price": list(range(ROWS)),
        "id": [f"e{row}" for row in range(ROWS)],
        "title": ["" if row % 20 == 7 else f"thing number {row}" for row in range(ROWS)],
        "tags": [["a", "b"] if row % 20 != 7 else [] for row in range(ROWS)],
    })  # fmt: skip


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "entities.parquet"
    pq.write_table(entities(), path, row_group_size=11)  # smaller than and not a divisor of a part
    return path


def test_parts_hold_what_the_tower_says(source: Path, tmp_path: Path, tower: EntityTower) -> None:
    seen: list[tuple[str, int, int]] = []
    plan = plan_embedding(tower, source, tmp_path / "out", part_rows=20)
    report = embed(plan, tower, progress=lambda *at: seen.append(at))
    assert (report.parts, report.resumed, report.rows, report.without_text) == (3, 0, 50, 3)
    assert report.examples == ["e7", "e27", "e47"]
    assert seen[-1] == ("embed", ROWS, ROWS)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    for file in (tmp_path / "out").glob("part-*.parquet"):
        schema = pq.read_schema(file)
        assert schema.names == ["id", "embedding", "price", "title", "tags"]
        assert schema.field("embedding").type == pa.list_(pa.float32(), 16)
        assert schema.metadata[b"space_id"].decode() == tower.space_id
    table = pq.read_table(tmp_path / "out")
    kept = [row for row in range(ROWS) if row % 20 != 7]
    assert table.select(["id", "price", "title", "tags"]).equals(
        entities().take(kept).select(["id", "price", "title", "tags"])
    )
    vectors = table["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, 16)
    np.testing.assert_allclose(vectors, tower.encode(entities().take(kept)), atol=1e-5)


def test_a_folder_of_parquet_and_arrow_files(tmp_path: Path, tower: EntityTower) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    pq.write_table(entities().slice(0, 30), folder / "a.parquet")
    pyarrow.feather.write_feather(entities().slice(30), folder / "b.arrow", compression="uncompressed", chunksize=7)
    report = embed(plan_embedding(tower, folder, tmp_path / "out", part_rows=9), tower)
    assert (report.parts, report.rows) == (7, 50)
    ids = [name for file in sorted((tmp_path / "out").glob("part-*")) for name in pq.read_table(file)["id"].to_pylist()]
    assert ids == [f"e{row}" for row in range(ROWS) if row % 20 != 7]


def test_a_stopped_run_continues(
    source: Path, tmp_path: Path, tower: EntityTower, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    plan = plan_embedding(tower, source, out, part_rows=10)

    def stop(stage: str, done: int, total: int) -> None:
        if done > 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(plan, tower, progress=stop)
    assert [finished_part(plan, number) is not None for number in range(6)] == [True] * 3 + [False] * 3
    (out / "part-00003.parquet.tmp").write_bytes(b"half of a part")
    (out / "part-00001.parquet").write_bytes(b"damaged")
    (out / "_records" / "00002.json").write_bytes(b"{")
    made: list[int] = []
    real = module.embed_part
    monkeypatch.setattr(
        module,
        "embed_part",
        lambda plan, number, *rest, **more: made.append(number) or real(plan, number, *rest, **more),
    )
    report = embed(plan_embedding(tower, source, out, part_rows=10), tower)
    assert made == [1, 2, 3, 4, 5]
    assert (report.rows, report.without_text, report.resumed) == (50, 3, 1)
    assert not list(out.rglob("*.tmp"))
    embed(plan_embedding(tower, source, tmp_path / "whole", part_rows=10), tower)
    for file in (tmp_path / "whole").glob("part-*"):
        assert (out / file.name).read_bytes() == file.read_bytes()


def test_a_part_depends_on_plan_and_number_only(source: Path, tmp_path: Path, tower: EntityTower) -> None:
    plan = plan_embedding(tower, source, tmp_path / "a", part_rows=20)
    embed(plan, tower)
    elsewhere = type(plan).model_validate_json(plan.model_copy(update={"out": tmp_path / "b"}).model_dump_json())
    assert embed_part(elsewhere, 2, tower) == finished_part(plan, 2)
    assert (tmp_path / "b" / "part-00002.parquet").read_bytes() == (tmp_path / "a" / "part-00002.parquet").read_bytes()


def test_a_folder_is_not_shared_by_two_plans(source: Path, tmp_path: Path, tower: EntityTower) -> None:
    out = tmp_path / "out"
    embed(plan_embedding(tower, source, out), tower)
    with pytest.raises(InvalidArgument, match=r"holds embeddings of another source, space, precision or part size"):
        embed(plan_embedding(tower, source, out, part_rows=7), tower)
    other = EntityTower.load(make_tiny_checkpoint(tmp_path / "other", d=16, seed=1))
    with pytest.raises(InvalidArgument, match=r"holds embeddings of another source, space, precision or part size"):
        embed(plan_embedding(other, source, out), other)
    with pytest.raises(InvalidArgument, match=r"the plan is for space sp1-\w+, the tower makes sp1-"):
        embed_part(plan_embedding(tower, source, out), 0, other)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(InvalidArgument, match=r"mine holds files that are no embeddings: choose another folder"):
        embed(plan_embedding(tower, source, tmp_path / "mine"), tower)
    with pytest.raises(StoreError, match=r"cannot write .*thesis.txt"):
        embed(plan_embedding(tower, source, tmp_path / "mine" / "thesis.txt"), tower)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (entities().drop_columns(["id"]), r"has no column 'id' for the ids; it has: price, title, tags"),
        (entities().drop_columns(["title", "tags"]), r"no text column: the table has price, id, the tower reads title"),
        (entities().append_column("embedding", pa.nulls(ROWS)), r"has a column 'embedding' already: drop or rename it"),
        (entities().slice(0, 0), r"has no rows: there is nothing to embed"),
        (pa.table({"id": [0.5], "title": ["a"]}), r"column 'id' of .* has type double; ids are string or int64"),
        (pa.table({"id": ["a"], "title": [1]}), r"column 'title' is of type int64"),
        (pa.table({"id": ["a", "b"], "title": ["", " "]}), r"no row of .* has text in title, artist"),
    ],
)
def test_sources_that_cannot_be_embedded(tmp_path: Path, tower: EntityTower, table: pa.Table, message: str) -> None:
    pq.write_table(table, tmp_path / "source.parquet")
    with pytest.raises(InvalidData, match=message):
        embed(plan_embedding(tower, tmp_path / "source.parquet", tmp_path / "out"), tower)


def test_other_bad_input(source: Path, tmp_path: Path, tower: EntityTower) -> None:
    with pytest.raises(InvalidParams, match=r"part_rows = 0 is not acceptable: a part has 1 to 1,048,576 rows"):
        plan_embedding(tower, source, tmp_path / "out", part_rows=0)
    with pytest.raises(InvalidData, match=r"absent.parquet does not exist"):
        plan_embedding(tower, tmp_path / "absent.parquet", tmp_path / "out")
    (tmp_path / "broken.parquet").write_bytes(source.read_bytes()[:-100])
    with pytest.raises(InvalidData, match=r"cannot read .*broken.parquet"):
        plan_embedding(tower, tmp_path / "broken.parquet", tmp_path / "out")
    folder = tmp_path / "mixed"
    folder.mkdir()
    pq.write_table(entities(), folder / "a.parquet")
    pq.write_table(entities().drop_columns(["price"]), folder / "b.parquet")
    with pytest.raises(InvalidData, match=r"b.parquet has other columns than .*a.parquet"):
        plan_embedding(tower, folder, tmp_path / "out")


def test_the_command_prints_json_last(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path / "checkpoint", d=16)
    embed_command(checkpoint=checkpoint, entities=source, out=tmp_path / "out", threads=1, as_json=True)
    lines = capsys.readouterr().out.splitlines()
    assert "3 rows have no text and were left out, for example e7, e27, e47" in lines
    assert json.loads(lines[-1])["rows"] == 50
