"""Texts beside entities: a plain reference, types, several folders, bad input; and the command line of all of it."""

import json
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index_builders.enrich import join as module
from index_builders.enrich.aggregate import aggregate, plan_log
from index_builders.enrich.join import join_texts
from index_builders.enrich.log import LogColumns
from retrieval.cli import main
from retrieval.errors import InvalidArgument, InvalidData

NOW = datetime(2026, 1, 31, tzinfo=timezone.utc)
BOARDS = LogColumns(text="board_title")


def make_texts(folder: Path, name: str, pairs: list[tuple], *, column: str = "boards", partitions: int = 3) -> Path:
    """Texts out of a log of (id, title) rows."""
    log = folder / f"{name}.parquet"
    ids, titles = zip(*pairs, strict=True)
    times = pa.array([NOW - timedelta(days=1)] * len(pairs), pa.timestamp("ms"))
    pq.write_table(pa.table({"id": ids, "board_title": titles, "time": times}), log)
    plan = plan_log(log, folder / name, column=column, columns=BOARDS, now=NOW, partitions=partitions)
    aggregate(plan)
    return folder / name


def command(monkeypatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["retrieval", "enrich", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


@settings(max_examples=15, deadline=None)
@given(
    entities=st.lists(st.integers(-3, 12), min_size=1, max_size=30),
    pairs=st.lists(st.tuples(st.integers(-3, 12), st.sampled_from(["x", "y", "ü"])), min_size=1, max_size=30),
    as_text=st.booleans(),
)
def test_every_entity_has_its_texts_and_nothing_else_changes(entities, pairs, as_text):
    if as_text:
        entities, pairs = [str(e) for e in entities], [(str(e), text) for e, text in pairs]
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_ROWS", 4)
        folder = Path(name)
        texts = make_texts(folder, "boards", pairs)
        table = pa.table({"id": entities, "title": [f"t{i}" for i in range(len(entities))]})
        pq.write_table(table, folder / "e.parquet")
        report = join_texts(folder / "e.parquet", [texts], folder / "e2.parquet")
        joined = pq.read_table(folder / "e2.parquet")
        assert joined.select(["id", "title"]).equals(table)
        assert joined.schema.field("boards").type == pa.list_(pa.string())
        for row in joined.to_pylist():
            expected = sorted({t for e, t in pairs if e == row["id"]}, key=lambda t: (-pairs.count((row["id"], t)), t))
            assert (row["boards"] or []) == expected
            assert [told["source"] for told in row["boards_provenance"] or []] == ["boards.parquet"] * len(expected)
        assert report["with"]["boards"] == sum(bool(row["boards"]) for row in joined.to_pylist())


def test_several_folders_and_tables(tmp_path):
    one = make_texts(tmp_path, "one", [("a", "x")])
    two = make_texts(tmp_path, "two", [("b", "y"), ("b", "y"), ("c", "z")], column="others")
    (tmp_path / "entities").mkdir()
    for number, ids in enumerate((["a", "b"], [], ["d", "c"])):
        pq.write_table(pa.table({"id": pa.array(ids, pa.string())}), tmp_path / "entities" / f"{number}.parquet")
    report = join_texts(tmp_path / "entities", [one, two], tmp_path / "e2.parquet")
    rows = pq.read_table(tmp_path / "e2.parquet").to_pylist()
    assert [(row["id"], row["boards"], row["others"]) for row in rows] == [
        ("a", ["x"], None), ("b", None, ["y"]), ("d", None, None), ("c", None, ["z"]),
    ]  # fmt: skip
    assert rows[1]["others_provenance"][0]["count"] == 2.0
    assert report["with"] == {"boards": 1, "boards_provenance": 1, "others": 2, "others_provenance": 2}


def test_bad_input_is_one_sentence_and_writes_nothing(tmp_path):
    texts = make_texts(tmp_path, "texts", [("a", "x"), ("b", "y"), ("c", "z")])
    e, out = tmp_path / "e.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.table({"id": ["a"], "boards": ["old"]}), e)
    with pytest.raises(InvalidData, match=r"column 'boards' of .* exists already"):
        join_texts(e, [texts], out)
    pq.write_table(pa.table({"id": ["a"]}), e)
    with pytest.raises(InvalidData, match=r"column 'boards' of .* exists already"):
        join_texts(e, [texts, texts], out)
    with pytest.raises(InvalidArgument, match="exists already: remove it"):
        join_texts(e, [texts], e)
    with pytest.raises(InvalidData, match="is no folder of texts"):
        join_texts(e, [tmp_path], out)
    pq.write_table(pa.table({"id": [1]}), e)
    with pytest.raises(InvalidData, match=r"are string, those of .* are int64"):
        join_texts(e, [texts], out)
    pq.write_table(pa.table({"id": [1.0]}), e)
    with pytest.raises(InvalidData, match="ids are string or int64"):
        join_texts(e, [texts], out)
    pq.write_table(pa.table({"id": ["a"]}), e)
    (texts / "part-00001.parquet").write_bytes(b"damaged")
    with pytest.raises(InvalidData, match="has 2 of 3 parts whole"):
        join_texts(e, [texts], out)
    assert not list(tmp_path.glob("out.parquet*"))


def test_the_commands_queries_and_join(tmp_path, monkeypatch, capsys):
    days = [datetime(2026, 1, 31), datetime(2020, 1, 1), datetime(2026, 1, 30)]
    rows = {"id": [5, 5, -2], "query": ["red shoe", "old", "hat"], "action": ["save", "save", "click"]}
    times = pa.array([day.date() for day in days], pa.date32())
    pq.write_table(pa.table({**rows, "time": times, "weight": [1, 1, 1]}), tmp_path / "log.parquet")
    queries = ["queries", "--engagements", tmp_path / "log.parquet", "--now", "2026-01-31", "--json"]
    assert command(monkeypatch, *queries, "--out", tmp_path / "year", "--action-weight", "save=3") == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["entities"], report["left_out"]) == (1, {"before the window": 1, "of no weight": 1})
    assert command(monkeypatch, *queries, "--out", tmp_path / "ever", "--since-days", "none") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["texts"] == 3
    pq.write_table(pa.table({"id": pa.array([-2, 5, 9], pa.int64())}), tmp_path / "e.parquet")
    e2 = tmp_path / "e2.parquet"
    join = ["join", "--entities", tmp_path / "e.parquet", "--texts", tmp_path / "ever", "--out", e2]
    assert command(monkeypatch, *join) == 0
    assert "3 entities" in capsys.readouterr().out
    assert pq.read_table(e2)["engaged_queries"].to_pylist() == [["hat"], ["old", "red shoe"], None]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["songs"], "enrich 'songs' is not known: give boards, queries, captions, join"),
        (["boards"], "enrich boards has no saves: give --saves"),
        (["join", "--entities", "e", "--texts", "t", "--top", "3"], "no option --top: it has --entities, --texts"),
        (["boards", "--saves", "absent.parquet"], "absent.parquet does not exist"),
        (["boards", "--saves", "s", "--since-days", "soon"], "since_days = 'soon' is not acceptable"),
        (["queries", "--engagements", "s", "--action-weight", "save"], "write action=number, such as save=3"),
        (["captions", "--model", "m", "--images", "absent"], "neither a folder of images"),
    ],
)
def test_wrong_words_are_one_line(words, said, tmp_path, monkeypatch, capsys):
    assert command(monkeypatch, *words, "--out", tmp_path / "out") == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
