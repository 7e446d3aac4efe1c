"""`retrieval search` and `retrieval explain` with a vector or a stored entity in place of a text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_store import SPACE, TinyGeneration, make_store

from retrieval.cli.explain import explain
from retrieval.cli.search import search
from retrieval.errors import InvalidQuery, SpaceMismatch
from retrieval.serving.config import make_settings
from retrieval.serving.server import Server, open_engine

PINS, D = 30, 16


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, TinyGeneration]]:
    """A server's address and its pins; products beside them have names for ids."""
    store = tmp_path_factory.mktemp("forms") / "store"
    pins = make_store(store, PINS, D, 2)
    make_store(store, PINS, D, 1, "string", entity_type="product", seed=1)
    settings = make_settings(store=store, port=0)
    engine = open_engine(settings)
    server = Server(engine, settings)
    yield f"127.0.0.1:{server.start()}", pins
    server.stop(0).wait()
    engine.close()


def answer(capsys: pytest.CaptureFixture[str], **asked: Any) -> dict[str, Any]:
    search(as_json=True, **asked)
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


def test_a_file_numbers_and_an_entity_ask_the_same(
    served: tuple[str, TinyGeneration], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, pins = served
    row = pins.vectors[3]
    asked: dict[str, Any] = {"target": target, "entity_type": ["pin"], "k": 5}
    like = answer(capsys, like=f"pin:{pins.ids[3]}", **asked)
    assert like["query"] == {"entity_type": "pin", "id": int(pins.ids[3])}
    assert like["candidates"][0]["ranking"][0]["id"] == pins.ids[3]
    for name, values in [("one.npy", row), ("row.npy", row[None].astype(np.float64))]:
        np.save(tmp_path / name, values)
        found = answer(capsys, vector=str(tmp_path / name), space_id=SPACE, **asked)
        assert found["candidates"] == like["candidates"]
    written = answer(capsys, vector=",".join(map(str, row.tolist())), space_id=SPACE, **asked)
    assert written["candidates"] == like["candidates"]
    assert written["query"] == {"vector": row.tolist(), "space_id": SPACE}
    search(like=f"pin:{pins.ids[3]}", target=target, entity_type=["pin"], k=3)
    assert f"pin {pins.ids[3]} " in capsys.readouterr().out


def test_an_entity_explains_another(served: tuple[str, TinyGeneration], capsys: pytest.CaptureFixture[str]) -> None:
    target, pins = served
    explain(str(pins.ids[3]), like=f"pin:{pins.ids[3]}", entity_type="pin", target=target, k=1)
    assert capsys.readouterr().out.startswith(f"RETURNED: pin {pins.ids[3]} is in the answer at rank 1")
    numbers = ",".join(map(str, pins.vectors[3].tolist()))
    explain("nobody", vector=numbers, space_id=SPACE, entity_type="product", target=target)
    assert capsys.readouterr().out.startswith("ABSENT: product 'nobody' is not in generation ")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "nothing is given to search with: give one of TEXT, --vector and --like"),
        ({"text": "chair", "like": "pin:4"}, "TEXT and --like is given to search with"),
        ({"text": "chair", "space_id": "s"}, "--space-id s is the space of a vector, and none is given"),
        ({"vector": "1,2"}, f"--vector is of no named space: name it with --space-id; the server's are: {SPACE}"),
        ({"vector": "1;2", "space_id": SPACE}, "--vector 1;2 is neither a .npy file nor numbers"),
        ({"vector": "1,2", "space_id": SPACE}, "2 dimensions"),
        ({"like": "4"}, "--like 4 does not say of which type: write TYPE:ID; types are: pin, product"),
        ({"like": "pin:four"}, "'four' is not a number, and ids of pin are: give its number"),
    ],
)
def test_mistakes_are_one_sentence(served: tuple[str, TinyGeneration], given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidQuery, match=sentence):
        search(target=served[0], **given)


def test_a_vector_of_another_space_is_refused(served: tuple[str, TinyGeneration]) -> None:
    with pytest.raises(SpaceMismatch, match="other-space"):
        search(vector=",".join(["1"] * D), space_id="other-space", target=served[0])
    with pytest.raises(InvalidQuery, match="only '4' is given: give a text and the id of what is missing"):
        explain("4", entity_type="pin", target=served[0])


def test_files_that_hold_no_vector(served: tuple[str, TinyGeneration], tmp_path: Path) -> None:
    np.save(tmp_path / "two.npy", np.ones((2, D)))
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "two.npy").read_bytes()[:100])
    for name, sentence in [
        ("nowhere.npy", "cannot read a vector from .*nowhere.npy: No such file"),
        ("two.npy", "two.npy holds 2 vectors, and one is searched with"),
        ("words.npy", "words.npy does not hold an array of real numbers"),
        ("cut.npy", "cannot read a vector from .*cut.npy: it is not a whole .npy file of numbers"),
    ]:
        with pytest.raises(InvalidQuery, match=sentence):
            search(vector=str(tmp_path / name), space_id=SPACE, target=served[0])
