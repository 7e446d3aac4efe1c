"""Sources: nothing that is held out is trained on or written into an answer, whatever the lists and shares are."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval import catalogue
from retrieval.errors import InvalidArgument, InvalidData, InvalidParams
from retrieval.training.sources.flickr import GERMAN_TASK, prepare_flickr
from retrieval.training.sources.homedepot import prepare_homedepot
from retrieval.training.sources.icecat import plain_key, prepare_icecat, product_entities
from retrieval.training.sources.product_queries import MAX_ANSWERS, product_queries
from retrieval.training.sources.related import MIN_SHARED, related_queries
from retrieval.training.sources.tables import Split, held_out_key, split_of, write_source
from retrieval.training.sources.tate import pin_entities, prepare_tate
from retrieval.training.sources.word_ranking import WordRanking

PINS = 1_500


def rows(folder: Path, split: Split | str) -> list[dict[str, Any]]:
    return pq.read_table(folder / f"{split}.parquet").to_pylist()


def queries(folder: Path, split: Split, task: str | None = None) -> set[str]:
    return {row["query"] for row in rows(folder, split) if task in {None, row["task"]}}


@given(st.text(), st.floats(0, 0.5), st.floats(0, 0.5))
def test_a_stored_key_is_never_trained_on(text: str, validation: float, test: float) -> None:
    free = split_of(text, validation=validation, test=test)
    held = split_of(text, validation=validation, test=test, held_out={held_out_key(text)})
    assert held is not Split.TRAIN
    assert free in {Split.TRAIN, held}


@pytest.fixture(scope="module")
def tate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tate") / "tate"
    prepare_tate(out, pins=PINS, held_out={held_out_key("Castle")})
    return out


def test_held_out_subjects_are_in_no_pin(tate: Path) -> None:
    held = queries(tate, Split.VALIDATION) | queries(tate, Split.TEST)
    assert "castle" not in queries(tate, Split.TRAIN)
    for row in rows(tate, "entities"):
        assert not held & {value.lower() for value in row["tags"] + row["boards"]}
    keys = set((tate / "held_out.txt").read_text().split())
    assert keys == {held_out_key(query) for query in held}


def test_a_pin_does_not_carry_the_query_that_it_answers(tate: Path) -> None:
    pins = {row["id"]: {value.lower() for value in row["tags"] + row["boards"]} for row in rows(tate, "entities")}
    trained = [row for row in rows(tate, Split.TRAIN) if row["task"] == "tate"]
    assert all(row["query"] not in pins[row["id"]] for row in trained)
    # but others do, so that there is something to learn from
    kept = set().union(*pins.values())
    assert len({row["query"] for row in trained} & kept) > 100


def test_related_queries_are_trained_ones(tate: Path) -> None:
    held = queries(tate, Split.VALIDATION) | queries(tate, Split.TEST)
    related = [row for row in rows(tate, Split.TRAIN) if row["task"] == "related"]
    assert related
    assert not held & {text for row in related for text in (row["query"], row["answer"])}


def test_an_index_keeps_all_tags() -> None:
    pins = catalogue.pins(50)
    assert pin_entities(pins).column("tags").to_pylist() == pins.column("tags").to_pylist()


def test_shares_and_numbers_of_pins_have_limits(tmp_path: Path) -> None:
    with pytest.raises(InvalidParams, match="taken = 0 is not acceptable"):
        prepare_tate(tmp_path / "t", taken=0)
    with pytest.raises(InvalidParams, match="limit = 0 is not acceptable"):
        prepare_tate(tmp_path / "t", pins=0)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def icecat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("icecat") / "icecat"
    prepare_icecat(out)
    return out


def test_judged_queries_are_the_test_and_nothing_else(icecat: Path) -> None:
    judged = {row["query"]: row["rating"] for row in catalogue.judgments().to_pylist()}
    never = {plain_key(query) for query in judged}
    assert queries(icecat, Split.TEST) <= set(judged)
    for split in (Split.TRAIN, Split.VALIDATION):
        texts = {text for row in rows(icecat, split) for text in (row["query"], row["answer"]) if text}
        assert not never & {plain_key(text) for text in texts}
    assert len(queries(icecat, Split.TRAIN, "icecat")) > 5_000
    assert not queries(icecat, Split.TRAIN) & queries(icecat, Split.VALIDATION)


def test_a_key_ignores_case_spaces_and_plural() -> None:
    assert plain_key(" Bluetooth  Speakers") == plain_key("bluetooth speaker")


def test_attributes_become_words_a_shopper_would_type() -> None:
    attributes = {
        "connectivity_technology": "Wireless",
        "weight": 12.0,
        "package_type": "Box",
        "product_colour": "Black",
        "interface": "USB",
        "story": "x" * 61,
    }
    table = pa.table({"id": ["1"], "attributes": [json.dumps(attributes)]})
    assert product_entities(table).column("attributes").to_pylist() == [["Wireless", "USB"]]


def product(number: int, title: str, **more: Any) -> dict[str, Any]:
    empty = {"description": None, "brand": "Acme", "color": None, "product_type": None, "attributes": []}
    return {"id": str(number), "title": title, **empty, **more}


def test_phrases_are_asked_for_alone_and_with_brand_colour_and_attribute() -> None:
    made = [product(n, f"Acme N{n} notebook case 15") for n in range(10)]
    made += [product(10 + n, f"Acme M{n} lamp 13 black led", color="Black", attributes=["LED"]) for n in range(10)]
    made += [product(20 + n, f"Zeta Z{n} thing{n}y", brand="Zeta") for n in range(300)]
    found = product_queries(made)
    assert set(found["notebook case"]) == {str(n) for n in range(10)}
    assert "notebook" not in found  # it lies inside a longer phrase wherever it stands
    lamps = {str(10 + n) for n in range(10)}
    assert set(found["black lamp"]) == set(found["acme lamp"]) == set(found["led lamp"]) == lamps
    assert "zeta" not in found  # too many products to say anything


def test_the_answers_are_those_most_about_the_query() -> None:
    made = [product(n, f"Acme N{n} lamp " + "with very many other words in its title " * (n % 2)) for n in range(60)]
    made += [product(100 + n, f"Zeta Z{n} thing{n}y") for n in range(900)]
    found = product_queries(made)["lamp"]
    assert len(found) == MAX_ANSWERS
    assert all(int(entity) % 2 == 0 for entity in found)


def test_a_word_ranking_is_that_of_the_formula() -> None:
    texts = ["Lamps", "lamp lamp chair table", "chair", "a lamp and a chair"]
    ranking = WordRanking(texts)
    assert ranking.best("lamp", 9) == [0, 1, 3]
    assert ranking.best("CHAIRS lamp", 9) == [1, 3]
    assert ranking.best("lamp", 1) == [0]
    assert ranking.best("sofa", 9) == ranking.best("?", 9) == []
    # equal lengths and counts tie
    assert WordRanking(["b a", "a b", "a c"]).best("a", 3) == [0, 1, 2]


sets = st.dictionaries(st.sampled_from("abcdef"), st.sets(st.sampled_from("12345678")), max_size=6)


@given(sets)
def test_related_queries_share_answers(answers: dict[str, set[str]]) -> None:
    found = related_queries(answers)
    assert found == related_queries(dict(reversed(answers.items())))
    for query, other, overlap in found:
        shared = len(answers[query] & answers[other])
        assert query != other
        assert shared >= MIN_SHARED
        assert overlap == pytest.approx(shared / len(answers[query] | answers[other]))


def test_home_depot_and_flickr_hold_out_what_is_listed(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1, 2], "title": ["a", "b"]}), tmp_path / "homedepot_products.parquet")
    asked = [f"query {n}" for n in range(50)]
    judged = pa.table({"query": asked, "id": [1] * 50, "relevance": [3.0] * 50})
    pq.write_table(judged, tmp_path / "homedepot_judgments.parquet")
    prepare_homedepot(tmp_path, tmp_path / "free")
    one = min(queries(tmp_path / "free", Split.TRAIN))
    prepare_homedepot(tmp_path, tmp_path / "held", held_out={held_out_key(one)})
    assert queries(tmp_path / "held", Split.TRAIN) == queries(tmp_path / "free", Split.TRAIN) - {one}
    images = ["i1", "i2", "i3"]
    captions = pa.table(
        {"image": images, "split": ["train", "train", "val"], "en": [["x", "y"]] * 3, "de": [["u", "v"]] * 3}
    )
    pq.write_table(captions, tmp_path / "flickr30k_captions.parquet")
    prepare_flickr(tmp_path, tmp_path / "flickr", german=True, held_out={held_out_key("i2")})
    assert {row["id"] for row in rows(tmp_path / "flickr", Split.TRAIN)} == {"fl:i1"}
    assert {(row["id"], row["task"], row["query"]) for row in rows(tmp_path / "flickr", Split.TEST)} == {
        ("fl:i2", "flickr", "x"),
        ("fl:i2", GERMAN_TASK, "u"),
    }


def test_tables_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "source"
    write_source(out, pa.table({"id": ["1"]}), {}, [])
    with pytest.raises(InvalidArgument, match="exists already"):
        write_source(out, pa.table({"id": ["2"]}), {}, [])
    assert rows(out, "entities") == [{"id": "1"}]
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_folder_without_the_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"homedepot_products.parquet does not exist: name the folder"):
        prepare_homedepot(tmp_path, tmp_path / "out")
