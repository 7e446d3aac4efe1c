"""`retrieval explain` against a server: one line that says why, or one JSON object, and one sentence for a mistake."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_store import make_store
from tiny_tower import make_tiny_checkpoint

from retrieval import client as rc
from retrieval.cli.explain import explain
from retrieval.errors import InvalidQuery, Unavailable
from retrieval.serving.config import make_settings
from retrieval.serving.server import Server, open_engine
from retrieval.towers.query import QueryTower


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("explain")
    checkpoint = make_tiny_checkpoint(folder / "checkpoint", d=16)
    space = QueryTower.load(checkpoint).space_id
    make_store(folder / "store", 30, 16, 2, space_id=space)
    make_store(folder / "store", 30, 16, 1, "string", entity_type="product", space_id=space)
    settings = make_settings(store=folder / "store", checkpoint=checkpoint, port=0, torch_threads=1)
    engine = open_engine(settings)
    server = Server(engine, settings)
    yield f"127.0.0.1:{server.start()}"
    server.stop(0).wait()
    engine.close()


def test_it_says_why_in_a_line_with_figures(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    with rc.RetrievalClient(target) as client:
        found = client.search("red chair", entity_types=["pin"], k=30).candidates[0]
    first, last = (str(next(each.id for each in found if each.rank == rank)) for rank in (1, 30))
    explain("red chair", first, entity_type="pin", target=target, k=5)
    reason, figures = capsys.readouterr().out.splitlines()
    assert reason == f"RETURNED: pin {first} is in the answer at rank 1; its exact rank is 1"
    assert figures.startswith(("score 0.", "score -0."))
    assert " · exact rank 1 · rank 1 · rank in shard-0000" in figures
    explain("red chair", last, entity_type="pin", target=target, k=5, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["verdict"], told["exact_rank"], told["rank"]) == ("BELOW_K", 30, None)
    explain("red chair", "nobody", entity_type="product", target=target)
    assert capsys.readouterr().out.startswith("ABSENT: product 'nobody' is not in generation ")


def test_mistakes_are_one_sentence(target: str) -> None:
    with pytest.raises(InvalidQuery, match="no entity type is given: choose one with --entity-type: pin, product"):
        explain("chair", "4", target=target)
    with pytest.raises(InvalidQuery, match="entity type 'person' is not served: choose one with --entity-type"):
        explain("chair", "4", entity_type="person", target=target)
    with pytest.raises(InvalidQuery, match="'four' is not a number, and ids of pin are: give its number"):
        explain("chair", "four", entity_type="pin", target=target)
    with pytest.raises(Unavailable, match=r"no answer|UNAVAILABLE|no server|connect"):
        explain("chair", "4", entity_type="pin", target="127.0.0.1:1", timeout=0.3)
