"""Evaluation held against a plain reference; ties, distractors, query-to-query, baselines, old spaces, bad input."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tower import make_tiny_checkpoint, tiny_encoder
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
from tiny_training import write_all

from retrieval.cli import evaluate as command
from retrieval.errors import DamagedData, InvalidData, InvalidParams, MissingDependency, RetrievalError, SpaceMismatch
from retrieval.towers.checkpoint import read_checkpoint, write_checkpoint
from retrieval.towers.entity import EntityTower
from retrieval.towers.projection import Projection
from retrieval.towers.query import QueryTower
from retrieval.training.compatibility import NEW_ON_OLD, OLD_ON_OLD, old_space_systems
from retrieval.training.config import make_settings
from retrieval.training.evaluation import evaluate_system
from retrieval.training.questions import Corpus, read_corpus, read_questions
from retrieval.training.rankings import rank_vectors, shorten
from retrieval.training.systems import Bm25System, tower_system, untrained_encoder, zero_shot_system
from retrieval.training.trainer import Trainer
from retrieval.types import F32

SCHEMA = pa.schema({"query": "string", "task": "string", "id": "string", "answer": "string", "weight": "float32"})


def pair(query: str, task: str, entity: str | None = None, answer: str | None = None, weight: Any = None) -> Any:
    return {"query": query, "task": task, "id": entity, "answer": answer, "weight": weight}


def write_pairs(path: Path, *rows: Any) -> Path:
    if rows == ({"query": 7},):  # a column of another type
        pq.write_table(pa.table({"query": [7], "task": ["t"], "id": ["a"]}), path)
        return path
    pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), path)
    return path


def write_entities(path: Path, ids: list[Any], titles: list[str], types: list[str] | None = None) -> Path:
    columns: dict[str, Any] = {"id": ids, "title": titles}
    pq.write_table(pa.table(columns | ({"entity_type": types} if types else {})), path)
    return path


class Fixed:
    """A system with given vectors by entity id and query."""

    name = "fixed"

    def __init__(self, corpus: Corpus, vectors: dict[str, F32], queries: dict[str, F32]) -> None:
        self.ids = corpus.entities.table.column("id").to_pylist()
        self.vectors, self.queries = vectors, queries

    def rank(self, asked: Any, depth: int) -> dict[int | None, list[list[int]]]:
        xq = np.stack([self.queries[text] for text in asked.texts])
        if asked.rows is None:
            xb = np.stack([self.queries[text] for text in asked.answers])
        else:
            xb = np.stack([self.vectors[self.ids[row]] for row in asked.rows])
        return {
            prefix: rank_vectors(shorten(xq, prefix), shorten(xb, prefix), depth, own=asked.own) for prefix in (2, 4)
        }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("trained")
    body = write_all(folder)
    Trainer(make_settings(body, where="test"), work=folder / "work").run(folder / "out")
    return folder, folder / "out"


def test_towers_equal_a_plain_reference_at_every_prefix(trained: tuple[Path, Path]) -> None:
    folder, path = trained
    corpus = read_corpus([folder / "entities.parquet"])
    asked = read_questions(folder / "validation.parquet", corpus, binary=True)
    system = tower_system(read_checkpoint(path), corpus, list(asked.values()), prefixes=[4])
    found = {(s.task, s.prefix, s.metric): s for s in evaluate_system(system, asked)}
    table, rows = pq.read_table(folder / "entities.parquet"), pq.read_table(folder / "validation.parquet").to_pylist()
    queries, entities = QueryTower.load(path), EntityTower.load(path).encode(table)
    for task, kind in (("pins", "pin"), ("products", "product")):
        names = sorted({row["query"] for row in rows if row["task"] == task})
        kept = [n for n, value in enumerate(table.column("entity_type").to_pylist()) if value == kind]
        for prefix in (4, 16):
            recalls, gains = [], []
            for name in names:
                truth = {row["id"] for row in rows if row["task"] == task and row["query"] == name}
                q = queries.encode([name])[0][:prefix]
                order = sorted(
                    (-float(q @ (v := entities[n][:prefix])) / np.linalg.norm(q) / np.linalg.norm(v), n) for n in kept
                )
                best = [f"e{n}" for _, n in order[:10]]
                recalls.append(len(truth & set(best)) / len(truth))
                ideal = sum(1 / math.log2(place + 2) for place in range(len(truth)))
                gains.append(sum(1 / math.log2(p + 2) for p, e in enumerate(best) if e in truth) / ideal)
            assert found[task, prefix, "recall@10"].measured.mean == pytest.approx(np.mean(recalls))
            assert found[task, prefix, "ndcg@10"].measured.mean == pytest.approx(np.mean(gains))
            score = found[task, prefix, "recall@10"]
            assert score.measured.queries == len(names)
            assert score.candidates == len(kept) == 20
            draws = np.random.default_rng(0).integers(len(names), size=(2_000, len(names)))
            ordered = [recalls[names.index(text)] for text in asked[task].texts]
            low, high = np.quantile(np.array(ordered)[draws].mean(axis=1), [0.025, 0.975])
            assert (score.measured.low, score.measured.high) == (pytest.approx(low), pytest.approx(high))


def test_ties_go_to_the_smaller_id_whatever_the_order_of_the_file(tmp_path: Path) -> None:
    same = np.array([1, 0, 0, 0], dtype=np.float32)
    for number, ids in enumerate((["b", "c", "a"], ["c", "a", "b"])):
        corpus = read_corpus([write_entities(tmp_path / f"{number}.parquet", ids, ids)])
        asked = read_questions(write_pairs(tmp_path / "p.parquet", pair("q", "t", "b", weight=3.0)), corpus)["t"]
        ranked = Fixed(corpus, dict.fromkeys("abc", same), {"q": same}).rank(asked, 10)[4][0]
        assert asked.rows is not None
        assert [corpus.entities.table.column("id")[int(asked.rows[place])].as_py() for place in ranked] == list("abc")


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 30))
def test_distractors_only_lower_recall(tmp_path_factory: pytest.TempPathFactory, seed: int, more: int) -> None:
    folder, random = tmp_path_factory.getbasetemp(), np.random.default_rng(seed)
    ids, others = [f"e{n}" for n in range(14)], [f"d{n}" for n in range(more)]
    vectors = {name: v / np.linalg.norm(v) for name in ids + others for v in [random.integers(-2, 3, 4) + 0.1]}
    unit = {name: np.asarray(v, dtype=np.float32) for name, v in vectors.items()}
    queries = {f"q{n}": unit[ids[n]] for n in range(4)}
    rows = [pair(f"q{n}", "t", entity) for n in range(4) for entity in random.choice(ids, 3, replace=False)]
    pairs = write_pairs(folder / "p.parquet", *rows)
    a = write_entities(folder / "a.parquet", ids, ids, ["pin"] * 14)
    b = write_entities(folder / "b.parquet", others, others, ["product"] * more)
    means = []
    for distractors in ([], [b]):
        corpus = read_corpus([a], distractors)
        asked = read_questions(pairs, corpus)
        assert asked["t"].candidates == 14 + more * len(distractors)
        means.append([s.measured.mean for s in evaluate_system(Fixed(corpus, unit, queries), asked)])
    assert all(with_them <= without for without, with_them in zip(*means, strict=True))


def test_a_query_is_left_out_of_its_own_answers(tmp_path: Path) -> None:
    corpus = read_corpus([write_entities(tmp_path / "e.parquet", ["a"], ["x"])])
    rows = [pair("one", "t", answer="two"), pair("one", "t", answer="one"), pair("two", "t", answer="one")]
    asked = read_questions(write_pairs(tmp_path / "p.parquet", *rows), corpus)["t"]
    assert (asked.answers, asked.texts, asked.own.tolist()) == (["one", "two"], ["one", "two"], [0, 1])
    assert asked.ratings == [{1: 1.0}, {0: 1.0}]
    unit = np.eye(4, dtype=np.float32)
    assert Fixed(corpus, {}, {"one": unit[0], "two": unit[1]}).rank(asked, 1)[4] == [[1], [0]]


def test_a_weight_is_a_rating(tmp_path: Path) -> None:
    corpus = read_corpus([write_entities(tmp_path / "e.parquet", ["a", "b", "c"], ["x", "y", "z"])])
    rows = [pair("q", "t", "a", weight=0.0), pair("q", "t", "b", weight=1.0), pair("q", "t", "c", weight=3.0)]
    asked = read_questions(write_pairs(tmp_path / "p.parquet", *rows), corpus)
    unit = np.eye(4, dtype=np.float32)
    near = {"a": unit[0], "b": shorten(unit[:1] + unit[1:2], 4)[0], "c": unit[2]}
    near["b"] = near["b"] / np.linalg.norm(near["b"])
    scores = evaluate_system(Fixed(corpus, near, {"q": unit[0]}), asked)
    ndcg = next(s.measured.mean for s in scores if s.metric == "ndcg@10" and s.prefix == 4)
    assert ndcg == pytest.approx((1 / math.log2(3) + 7 / 2) / (7 + 1 / math.log2(3)))


def test_bm25_finds_stemmed_words_and_no_others(trained: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("bm25s", reason="the extra `baselines` is not installed")
    ids, titles = ["a", "b", "c", "d"], ["red chairs", "blue lamp", "red lamp lamp", "red chairs"]
    corpus = read_corpus([write_entities(tmp_path / "e.parquet", ids, titles)])
    rows = [pair("chair", "t", "a"), pair("lamps", "t", "c"), pair("zebra", "t", "b")]
    asked = read_questions(write_pairs(tmp_path / "p.parquet", *rows), corpus)["t"]
    ranked = Bm25System(corpus, ["title"]).rank(asked, 10)[None]
    assert ranked == [[0, 3], [2, 1], []]  # the tie of a and d goes to the smaller id


def test_zero_shot_is_the_encoder_before_training(trained: tuple[Path, Path]) -> None:
    folder, path = trained
    corpus = read_corpus([folder / "entities.parquet"])
    asked = read_questions(folder / "validation.parquet", corpus, binary=True)
    checkpoint = read_checkpoint(path)
    system = zero_shot_system(checkpoint, corpus, list(asked.values()))
    scores = evaluate_system(system, asked)
    assert {score.prefix for score in scores} == {32}
    fresh = tiny_encoder(max_tokens=16).encode(["red chair"])
    assert np.allclose(untrained_encoder(checkpoint, None).encode(["red chair"]), fresh, atol=1e-5)


def write_old(folder: Path, old: Path, d: int = 16) -> Path:
    table = pq.read_table(folder / "entities.parquet")
    vectors = EntityTower.load(old).encode(table)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), d)
    written = pa.table({"id": table.column("id"), "embedding": column})
    space = read_checkpoint(old).config.space_id
    pq.write_table(written.replace_schema_metadata({b"space_id": space.encode()}), folder / "old.parquet")
    return folder / "old.parquet"


def test_old_embeddings_serve_a_checkpoint_that_lists_their_space(trained: tuple[Path, Path], tmp_path: Path) -> None:
    folder, path = trained
    old = make_tiny_checkpoint(tmp_path / "old", d=16, seed=3)
    space = read_checkpoint(old).config.space_id
    weight = np.random.default_rng(3).standard_normal((16, 32)).astype(np.float32)
    new = tmp_path / "new"
    write_checkpoint(new, encoder=tiny_encoder(seed=3), projection=Projection(weight + 0.01), compatible=[space])
    corpus = read_corpus([folder / "entities.parquet"])
    asked = read_questions(folder / "validation.parquet", corpus, binary=True)
    embeddings = write_old(folder, old)
    arguments = (embeddings, corpus, list(asked.values()))
    systems = old_space_systems(read_checkpoint(new), read_checkpoint(old), *arguments)
    means = {system.name: [s.measured.mean for s in evaluate_system(system, asked)] for system in systems}
    plain = tower_system(read_checkpoint(old), corpus, list(asked.values()))
    assert means[OLD_ON_OLD] == [score.measured.mean for score in evaluate_system(plain, asked)]
    assert set(means) == {NEW_ON_OLD, OLD_ON_OLD}
    trained_space = read_checkpoint(path).config.space_id
    with pytest.raises(SpaceMismatch, match=f"a query of space {trained_space} cannot search .* space {space}"):
        old_space_systems(read_checkpoint(path), read_checkpoint(old), *arguments)
    third = make_tiny_checkpoint(tmp_path / "third", d=16, seed=4)
    with pytest.raises(SpaceMismatch, match=f"are of space {space}, checkpoint .* is of "):
        old_space_systems(read_checkpoint(third), read_checkpoint(third), *arguments)


def test_the_command_prints_and_writes_the_same_report(trained: tuple[Path, Path], tmp_path: Path) -> None:
    folder, path = trained
    given = ["--checkpoint", path, "--entities", folder / "entities.parquet", "--pairs", folder / "validation.parquet"]
    given += ["--prefixes", "4,8", "--baseline", "zero-shot", "--binary", "--out", tmp_path / "r.json", "--json"]
    found = run_command(given)
    assert found.exit_code == 0, found.output
    report = json.loads(found.stdout.splitlines()[-1])
    assert report == json.loads((tmp_path / "r.json").read_text())
    assert {row["prefix"] for row in report["scores"] if row["system"] == "trained"} == {4, 8, 16}
    assert len(report["scores"]) == 2 * 3 * (3 + 1)
    assert not list(tmp_path.glob(".*partial"))


def run_command(arguments: list[Any]) -> Any:
    import typer

    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(command.evaluate)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


BAD: list[tuple[str, Callable[[Path], Any], type[RetrievalError], str]] = [
    (
        "task",
        lambda p: (["--task", "x"], [pair("q", "t", "a")]),
        InvalidParams,
        r"task 'x' has no pair in .*: it has t",
    ),
    ("entity", lambda p: ([], [pair("q", "t", "z")]), InvalidData, r"row 0 of .* names entity 'z', which no entity"),
    ("distractor", lambda p: ([], [pair("q", "t", "d")]), InvalidData, r"entity 'd', which is a distractor"),
    ("nothing", lambda p: ([], [pair("q", "t", "a", weight=0.0)]), InvalidData, r"task 't' of .* has no relevant pair"),
    (
        "rating",
        lambda p: ([], [pair("q", "t", "a", weight=99.0)]),
        InvalidData,
        r"has weight 99.0: a rating is 0 to 30",
    ),
    ("nan", lambda p: ([], [pair("q", "t", "a", weight=math.nan)]), InvalidData, r"has weight nan: a rating is"),
    ("type", lambda p: ([], [{"query": 7}]), InvalidData, r"column 'query' of .* is of type int64, it has to be str"),
    ("kinds", lambda p: ([], [pair("q", "t", "a"), pair("q", "t", answer="r")]), InvalidData, r"make it two tasks"),
    ("empty", lambda p: ([], [pair(" ", "t", "a")]), InvalidData, r"row 0 of .* has no query text"),
    ("none", lambda p: ([], []), InvalidData, r"have no rows, or rows without a task"),
    ("prefix", lambda p: (["--prefixes", "99"], [pair("q", "t", "a")]), InvalidParams, r"prefix 99 .* 16 dimensions"),
    ("words", lambda p: (["--prefixes", "a"], [pair("q", "t", "a")]), InvalidParams, r"--prefixes 'a' is not accept"),
    ("old", lambda p: (["--old-checkpoint", p], [pair("q", "t", "a")]), InvalidParams, r"belong together: give both"),
]


@pytest.mark.parametrize(("make", "kind", "message"), [pytest.param(*rest, id=name) for name, *rest in BAD])
def test_bad_input_is_one_sentence(
    tmp_path: Path, trained: tuple[Path, Path], make: Any, kind: type[RetrievalError], message: str
) -> None:
    arguments, rows = make(tmp_path)
    given = ["--checkpoint", trained[1], "--entities", write_entities(tmp_path / "e.parquet", ["a", "b"], ["x", "y"])]
    given += ["--distractors", write_entities(tmp_path / "d.parquet", ["d"], ["x"])]
    given += ["--pairs", write_pairs(tmp_path / "p.parquet", *rows), "--out", tmp_path / "r.json", *arguments]
    found = run_command(given)
    with pytest.raises(kind, match=message):
        raise found.exception
    assert "\n" not in str(found.exception)
    assert not (tmp_path / "r.json").exists()


def test_a_damaged_checkpoint_and_a_missing_package(
    trained: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = read_corpus([write_entities(tmp_path / "e.parquet", ["a"], ["x"])])
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(MissingDependency, match=r"BM25 baseline needs bm25s, .* pip install 'retrieval\[baselines\]'"):
        Bm25System(corpus, ["title"])
    damaged = make_tiny_checkpoint(tmp_path / "damaged", d=16)
    data = bytearray((damaged / "projection.safetensors").read_bytes())
    data[-1] ^= 1
    (damaged / "projection.safetensors").write_bytes(bytes(data))
    pairs = write_pairs(tmp_path / "p.parquet", pair("q", "t", "a"))
    found = run_command(["--checkpoint", damaged, "--entities", tmp_path / "e.parquet", "--pairs", pairs])
    with pytest.raises(DamagedData, match=r"projection.safetensors does not match its SHA-256"):
        raise found.exception
