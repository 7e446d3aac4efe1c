"""`check` finds what checksums cannot: a generation whose every byte is on record and still wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import typer
from tiny_store import TinyGeneration, make_store

from index_builders.check import check_generation
from index_builders.check_shard import bad_vectors
from retrieval.cli.check import check
from retrieval.store import Manifest
from retrieval.store.checksums import list_files, sha256_files
from retrieval.store.generation import ROWS_FILE, VECTORS_FILE
from retrieval.store.manifest import MANIFEST_FILE
from retrieval.types import Metric


def reseal(path: Path) -> None:
    """Put what the files are now on record, as a builder with a defect would."""
    manifest = Manifest.from_bytes((path / MANIFEST_FILE).read_bytes(), where="m")
    sealed = manifest.model_copy(update={"files": sha256_files(path, list_files(path))})
    (path / MANIFEST_FILE).write_bytes(sealed.to_bytes())


def bad(path: Path) -> dict[str, str]:
    reseal(path)
    return {verdict.name: verdict.finding for verdict in check_generation(path) if not verdict.good}


@pytest.fixture(params=["flat", "hnsw"])
def tiny(request: pytest.FixtureRequest, tmp_path: Path) -> TinyGeneration:
    return make_store(tmp_path / "store", 300, 8, 2, kind=request.param, canaries=True)


def change_vectors(path: Path, change: Callable[[np.ndarray], object]) -> None:
    vectors = np.load(path / VECTORS_FILE)
    change(vectors)
    np.save(path / VECTORS_FILE, vectors)


def test_a_good_generation_has_a_good_verdict_for_everything(tiny):
    verdicts = check_generation(tiny.path)
    assert all(verdict.good for verdict in verdicts)
    names = {verdict.name for verdict in verdicts}
    assert names >= {"manifest.json", "canaries.npz", "canaries.npz (structure)", "canaries.npz (answers)"}
    assert names >= {f"shard-00001 ({side})" for side in ("structure", "vectors", "answers")}
    assert len(names) == len(verdicts) == len(tiny.manifest.files) + 1 + 2 * 3 + 2


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 3.0])
def test_a_vector_that_is_not_finite_or_not_of_unit_length(tiny, value):
    change_vectors(tiny.path / "shard-00001", lambda vectors: vectors[7].fill(value))
    found = bad(tiny.path)["shard-00001 (vectors)"]
    assert ("row 7 is not finite or is zero" if value != 3.0 else "row 7 has not unit length") in found


def test_an_index_over_other_vectors_than_are_stored(tiny):
    change_vectors(tiny.path / "shard-00000", lambda vectors: np.random.default_rng(0).shuffle(vectors))
    found = bad(tiny.path)
    if tiny.manifest.shards[0].kind == "hnsw":  # a graph over the old order leads astray; an exact scan cannot
        assert "recall@10 over 32 of its own rows is" in found["shard-00000 (answers)"]
    assert "shard-00001 (answers)" not in found


def test_an_id_in_two_shards(tiny):
    first, second = (tiny.path / f"shard-0000{number}" / ROWS_FILE for number in range(2))
    with pa.memory_map(str(first)) as mapped:
        stolen = pa.ipc.open_file(mapped).read_all().column("id")[0].as_py()
    table = pa.ipc.open_file(pa.BufferReader(second.read_bytes())).read_all()
    ids = [stolen, *table.column("id").to_pylist()[1:]]
    with pa.OSFile(str(second), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.set_column(0, table.schema.field(0), pa.array(ids, table.schema.field(0).type)))
    assert bad(tiny.path)["shard-00001 (structure)"] == "1 ids appear more than once in this or an earlier shard"


def test_canaries_that_do_not_come_back(tiny):
    with np.load(tiny.path / "canaries.npz") as held:
        changed = {name: held[name] for name in held.files}
    changed["scores"] = changed["scores"] + 0.5
    np.savez(tiny.path / "canaries.npz", **changed)
    assert "of the stored answers came back, 0.8 are needed" in bad(tiny.path)["canaries.npz (answers)"]
    (tiny.path / "canaries.npz").write_bytes(b"PK no zip")
    assert "does not hold canaries" in bad(tiny.path)["canaries.npz (structure)"]


def test_a_shard_of_another_size_than_the_manifest_says(tiny):
    manifest = json.loads((tiny.path / MANIFEST_FILE).read_text())
    manifest.pop("manifest_sha256")
    manifest["shards"][0]["rows"] += 1
    (tiny.path / MANIFEST_FILE).write_bytes(Manifest(**manifest).to_bytes())
    assert "rows, the manifest says" in bad(tiny.path)["shard-00000 (structure)"]


@pytest.mark.parametrize("rows", [1, 65_536, 65_537])
def test_every_block_of_the_vectors_is_looked_at(rows):
    vectors = np.full((rows, 2), 2**-0.5, np.float16)
    assert bad_vectors(vectors, rows, 2, Metric.COSINE) == ""
    assert bad_vectors(vectors, rows, 3, Metric.COSINE) == f"has shape {(rows, 2)}, the manifest says {(rows, 3)}"
    vectors[-1] = np.nan
    assert bad_vectors(vectors, rows, 2, Metric.COSINE).startswith(f"row {rows - 1} is not finite or is zero")


def test_the_command_gives_a_verdict_for_every_file(tiny, capsys):
    check(str(tiny.path.parents[2]), "pin", as_json=True)
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[-1]) == {
        "generation": tiny.manifest.id,
        "good": True,
        "findings": {},
        "checked": len(lines) - 2,
    }
    file = tiny.path / "shard-00000" / VECTORS_FILE
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(typer.Exit, match="1"):
        check(str(tiny.path.parents[2]), "pin")
    printed = capsys.readouterr().out
    assert "BAD  shard-00000/vectors.npy: has " in printed
    assert "BAD  shard-00000 (structure): not opened, since a file of it is damaged" in printed
    assert printed.splitlines()[-1] == f"generation {tiny.manifest.id} of pin: 2 findings"
