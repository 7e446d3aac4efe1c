"""Captions of images: what the model says when called directly, resumption, unreadable images, bad input."""

import shutil
import sys
from datetime import datetime, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, BertConfig, BertModel, VisionEncoderDecoderModel

sys.path.insert(0, str(Path(__file__).parent))
from tiny_captioner import save_captioner, save_images

from index_builders.enrich import captions as module
from index_builders.enrich.captioner import Captioner, load_captioner
from index_builders.enrich.captions import make_captions, plan_captions
from index_builders.enrich.images import list_images
from index_builders.staging import hash_files
from retrieval.errors import InvalidArgument, InvalidData, InvalidParams, MissingDependency
from retrieval.towers.encoder import torch_threads

NOW = datetime(2026, 1, 31, tzinfo=timezone.utc)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_captioner(tmp_path_factory.mktemp("captioner") / "tiny")


@pytest.fixture(scope="module")
def captioner(folder) -> Captioner:
    return load_captioner(str(folder))


@pytest.fixture(autouse=True)
def small_parts_and_one_thread(monkeypatch):
    monkeypatch.setattr(module, "PART_IMAGES", 3)
    with torch_threads(1):
        yield


def plan(images: Path, out: Path, **changed):
    return plan_captions(list_images(images), out, **{"batch": 2, "max_tokens": 6, "now": NOW, **changed})


def read(out: Path) -> list[dict]:
    return pa.concat_tables([pq.read_table(file) for file in sorted(out.glob("part-*.parquet"))]).to_pylist()


def test_captions_are_what_the_model_generates(tmp_path, folder, captioner):
    images = save_images(tmp_path / "images", 8)
    report = make_captions(plan(images, tmp_path / "out"), captioner)
    assert (report["captions"], report["unreadable"], report["parts"]) == (8, 0, 3)
    model = VisionEncoderDecoderModel.from_pretrained(folder).eval()
    tokenizer, processor = AutoTokenizer.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)
    expected = {}
    for file in sorted(images.iterdir()):
        with torch.no_grad():
            pixels = processor(Image.open(file), return_tensors="pt")["pixel_values"]
            tokens = model.generate(pixel_values=pixels, max_new_tokens=6, do_sample=False)
        expected[file.stem] = [tokenizer.batch_decode(tokens, skip_special_tokens=True)[0]]
    rows = read(tmp_path / "out")
    assert {row["id"]: row["captions"] for row in rows} == expected
    assert len({row["captions"][0] for row in rows}) > 2, "the model must tell images apart"
    source = f"tiny@{captioner.weights_sha256[:12]}"
    assert all(row["captions_provenance"] == [{"source": source, "made": NOW}] for row in rows)


def test_a_stopped_run_continues_and_gives_the_same_bytes(tmp_path, captioner, monkeypatch):
    images = save_images(tmp_path / "images", 8)
    make_captions(plan(images, tmp_path / "whole"), captioner)
    real, calls = Captioner.caption, []

    def dying(self, batch, *, max_tokens):
        calls.append(len(batch))
        if len(calls) == 4:
            raise KeyboardInterrupt("stopped")
        return real(self, batch, max_tokens=max_tokens)

    monkeypatch.setattr(Captioner, "caption", dying)
    with pytest.raises(KeyboardInterrupt, match="stopped"):
        make_captions(plan(images, tmp_path / "out"), captioner)
    monkeypatch.setattr(Captioner, "caption", real)
    report = make_captions(plan(images, tmp_path / "out", now=None), captioner)
    assert report["resumed"] == 1
    assert hash_files(tmp_path / "out") == hash_files(tmp_path / "whole")
    with pytest.raises(InvalidArgument, match="other inputs or settings"):
        make_captions(plan(images, tmp_path / "out", max_tokens=5), captioner)


def test_unreadable_images_are_named_and_fatal_above_the_share(tmp_path, captioner):
    images = save_images(tmp_path / "images", 8)
    make_captions(plan(images, tmp_path / "whole", batch=1), captioner)
    data = (images / "003.png").read_bytes()
    (images / "003.png").write_bytes(data[: len(data) // 2])
    (images / "005.png").write_bytes(b"no image")
    with pytest.raises(InvalidData, match=r"2 of 8 images cannot be read \(003.png, 005.png\), the limit is 0.01"):
        make_captions(plan(images, tmp_path / "out"), captioner)
    report = make_captions(plan(images, tmp_path / "out", max_unreadable=0.25), captioner)
    assert (report["captions"], report["unreadable"], report["named"]) == (6, 2, ["003.png", "005.png"])
    expected = [row for row in read(tmp_path / "whole") if row["id"] not in {"003", "005"}]
    assert read(tmp_path / "out") == expected, "captions must stay with their images"


def test_a_table_of_int64_ids_and_paths(tmp_path, captioner):
    save_images(tmp_path / "images", 2)
    table = tmp_path / "images.parquet"
    pq.write_table(pa.table({"id": [7, 3], "path": ["images/000.png", str(tmp_path / "images/001.png")]}), table)
    make_captions(plan(table, tmp_path / "out", column="seen"), captioner)
    rows = read(tmp_path / "out")
    assert [row["id"] for row in rows] == [7, 3]
    assert set(rows[0]) == {"id", "seen", "seen_provenance"}


def test_bad_input_is_one_sentence(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidData, match="has no images"):
        list_images(tmp_path / "empty")
    with pytest.raises(InvalidData, match="neither a folder of images nor"):
        list_images(tmp_path / "absent")
    images = save_images(tmp_path / "images", 1)
    shutil.copy(images / "000.png", images / "000.jpg")
    with pytest.raises(InvalidData, match="id '000' more than once"):
        list_images(images)
    (images / "000.jpg").unlink()
    with pytest.raises(InvalidParams, match="batch = 0 is not acceptable"):
        plan(images, tmp_path / "out", batch=0)
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "t.parquet")
    with pytest.raises(InvalidData, match="no column 'path'"):
        list_images(tmp_path / "t.parquet")
    pq.write_table(pa.table({"id": ["a"], "path": [None]}, schema=pa.schema({"id": "string", "path": "string"})),
                   tmp_path / "n.parquet")  # fmt: skip
    with pytest.raises(InvalidData, match=r"'path' of .* is null in 1 rows"):
        list_images(tmp_path / "n.parquet")


def test_a_model_that_captions_nothing_is_one_sentence(tmp_path, folder, monkeypatch):
    with pytest.raises(MissingDependency, match=r"captioner '.*absent' cannot be loaded"):
        load_captioner(str(tmp_path / "absent"))
    BertModel(
        BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    ).save_pretrained(tmp_path / "bert")
    with pytest.raises(InvalidData, match="writes no text about an image alone"):
        load_captioner(str(tmp_path / "bert"))
    shutil.copytree(folder, tmp_path / "half")
    (tmp_path / "half" / "preprocessor_config.json").unlink()
    with pytest.raises(InvalidData, match="with its image processor and tokenizer"):
        load_captioner(str(tmp_path / "half"))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingDependency, match=r"pip install 'retrieval\[captions\]'"):
        load_captioner(str(folder))
