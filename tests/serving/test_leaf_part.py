"""A leaf reads the shards it was told to serve and no others, and refuses what is not there in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_store import make_store

from retrieval.errors import DamagedData, InvalidParams
from retrieval.serving.config import make_settings
from retrieval.serving.fleet.part import read_part
from retrieval.serving.swap.load import load_store


def test_a_leaf_opens_and_checks_only_its_shards(tmp_path: Path) -> None:
    made = make_store(tmp_path, 120, 8, 3, canaries=True)
    make_store(tmp_path, 50, 8, 2, entity_type="product")
    for file in (made.path / "shard-00001").iterdir():
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    served = load_store(make_settings(store=tmp_path, role="shard", shards="pin:2,0"))
    assert [shard.name for shard in served["pin"].shards] == ["shard-00000", "shard-00002"]
    assert list(served) == ["pin"]
    with pytest.raises(DamagedData, match=r"shard-00001/.* does not match its SHA-256"):
        load_store(make_settings(store=tmp_path, role="shard", shards="pin:1"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", r"shards = '' has '': write an entity type and numbers, such as pin:0,2"),
        ("pin", r"shards = 'pin' has 'pin': write an entity type and numbers"),
        ("pin:0;pin:1", r"shards = 'pin:0;pin:1' names 'pin' twice: list its numbers together"),
        ("pin:3", r"shards names shard 3 of pin, which has 0 to 2"),
        ("board:0", r"shards names 'board', the store has pin"),
    ],
)
def test_shards_that_are_not_there_are_refused(tmp_path: Path, text: str, sentence: str) -> None:
    make_store(tmp_path, 60, 8, 3)
    with pytest.raises(InvalidParams, match=sentence):
        load_store(make_settings(store=tmp_path, role="shard", shards=text))


def test_shards_are_read() -> None:
    assert read_part(None) is None
    assert read_part("product:0,2, 2 ; pin:1") == {"product": (0, 2), "pin": (1,)}
