"""Data sets of embedded texts: from a Parquet file by a checkpoint, part by part, and bad files."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_tower import make_tiny_checkpoint

from bench.recall_latency import texts
from bench.recall_latency.data import make_data
from retrieval.errors import InvalidData, InvalidParams
from retrieval.towers.entity import EntityTower


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return make_tiny_checkpoint(tmp_path / "checkpoint", d=8)


def write(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_texts_become_rows_and_queries_and_a_stopped_encoding_goes_on(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "_PART_ROWS", 10)
    path = write(tmp_path / "short.parquet", text=[f"text number {number}" for number in range(50)])
    order, work = f"texts:{path}:{checkpoint},rows=40", tmp_path / "work"
    encoded: list[int] = []
    encode = EntityTower.encode

    def stops(self: EntityTower, table: pa.Table, **options: object) -> np.ndarray:
        if len(encoded) == 2:
            raise KeyboardInterrupt("stopped")
        encoded.append(table.num_rows)
        return encode(self, table)

    monkeypatch.setattr(EntityTower, "encode", stops)
    with pytest.raises(KeyboardInterrupt, match="stopped"):
        make_data(order, work, queries=6)
    assert not (work / "data").exists()
    assert len(list((work / "encoded").rglob("part-*.npy"))) == 2
    monkeypatch.setattr(
        EntityTower, "encode", lambda self, table: encoded.append(table.num_rows) or encode(self, table)
    )
    data = make_data(order, work, queries=6)
    assert (data.n, data.d, data.q) == (40, 8, 6)
    assert 44 >= sum(encoded) >= 40  # nothing was encoded twice
    assert make_data(order, work, queries=6) == data
    # no query is a row: the texts differ
    nearest = (data.queries() @ data.base().T).max(axis=1)
    assert nearest.shape == (6,)


def test_files_without_texts_are_refused(tmp_path: Path, checkpoint: Path) -> None:
    work = tmp_path / "work"
    cases = {
        write(tmp_path / "title.parquet", title=["a"]): "no Parquet file with a column 'text'",
        write(tmp_path / "numbers.parquet", text=[1, 2]): "holds int64: it must hold strings",
        write(tmp_path / "few.parquet", text=["a", "b"]): "has 2 texts, too few for 1 rows and 2 queries",
    }
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 and nothing more")
    cases[tmp_path / "damaged.parquet"] = "is no Parquet file"
    cases[tmp_path / "absent.parquet"] = "is no Parquet file"
    for path, sentence in cases.items():
        with pytest.raises(InvalidData, match=sentence):
            make_data(f"texts:{path}:{checkpoint},rows=1", work, queries=2)


def test_the_catalogue_has_pins_and_products(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(InvalidParams, match="catalogue:shoe is not acceptable: the catalogue has pin and product"):
        make_data(f"catalogue:shoe:{checkpoint}", tmp_path / "work", queries=2)


@pytest.mark.long
def test_the_catalogue_by_a_checkpoint(tmp_path: Path, checkpoint: Path) -> None:
    data = make_data(f"catalogue:product:{checkpoint}", tmp_path / "work", queries=100)
    assert data.n == 19_406
    assert data.q == 100
