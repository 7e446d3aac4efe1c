"""Aggregation of logs into texts: the plain reference, row order, resumption, bad input."""

from collections import defaultdict
from datetime import datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index_builders.enrich import aggregate as module
from index_builders.enrich.aggregate import aggregate, plan_log
from index_builders.enrich.log import LogColumns
from index_builders.staging import hash_files
from retrieval.errors import InvalidArgument, InvalidData, InvalidParams
from retrieval.towers.text import normalise_text

NOW = datetime(2026, 1, 31, tzinfo=timezone.utc)
COLUMNS = LogColumns(text="query", action="action", weight="weight")
WORTH = {"click": 1.0, "save": 3.0}
ROWS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "ü", "d"]),
        st.sampled_from(["red  shoe", "red shoe", "Shoe", "é", " ", "blue"]),
        st.sampled_from(["click", "save", "hide"]),
        st.integers(0, 40),
        st.sampled_from([0.1, 0.2, 1.0, 2.5]),
    ),
    min_size=1,
    max_size=60,
)


def write(rows, path: Path) -> Path:
    ids, texts, actions, days, weights = zip(*rows, strict=True)
    times = pa.array([NOW - timedelta(days=day) for day in days], pa.timestamp("us", tz="UTC"))
    pq.write_table(pa.table({"id": ids, "query": texts, "action": actions, "time": times, "weight": weights}), path)
    return path


def plan(log: Path, out: Path, **changed):
    values = {"column": "engaged_queries", "columns": COLUMNS, "action_weights": WORTH, "top": 2, "min_count": 1.0}
    return plan_log(log, out, **{**values, "since_days": 30, "now": NOW, "partitions": 3, **changed})


def reference(rows):
    sums = defaultdict(int)
    for entity, text, action, days, weight in rows:
        if days <= 30 and normalise_text(text) and action in WORTH:
            sums[entity, normalise_text(text)] += round(weight * WORTH[action] * 1_000_000)
    best = defaultdict(list)
    for (entity, text), count in sorted(sums.items(), key=lambda item: (-item[1], item[0][1])):
        if count >= 1_000_000 and len(best[entity]) < 2:
            best[entity].append((text, count / 1_000_000))
    return {entity: texts for entity, texts in best.items() if texts}


def read(out: Path):
    table = pa.concat_tables([pq.read_table(file) for file in sorted(out.glob("part-*.parquet"))])
    return {
        row["id"]: [
            (text, told["count"])
            for text, told in zip(row["engaged_queries"], row["engaged_queries_provenance"], strict=True)
        ]
        for row in table.to_pylist()
    }


@settings(max_examples=20, deadline=None)
@given(rows=ROWS, data=st.data())
def test_equals_a_plain_reference_in_any_order_of_rows(rows, data):
    with TemporaryDirectory() as name:
        folder = Path(name)
        expected = reference(rows)
        made = plan(write(rows, folder / "log.parquet"), folder / "out")
        if not expected:
            with pytest.raises(InvalidData, match="reaches the floor"):
                aggregate(made)
            return
        aggregate(made)
        assert read(folder / "out") == expected
        shuffled = data.draw(st.permutations(rows))
        aggregate(plan(write(shuffled, folder / "log.parquet"), folder / "again"))
        assert read(folder / "again") == expected


def test_equal_counts_go_by_text(tmp_path):
    rows = [("a", text, "click", 1, 1.0) for text in ("shoe", "blue", "red", "red", "é")]
    aggregate(plan(write(rows, tmp_path / "log.parquet"), tmp_path / "out", top=3))
    assert read(tmp_path / "out") == {"a": [("red", 2.0), ("blue", 1.0), ("shoe", 1.0)]}


def test_a_stopped_run_continues_and_gives_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("index_builders.enrich.log.SLICE_ROWS", 7)
    rows = [(f"e{i % 9}", f"text {i % 4}", "save", i % 30, 1.0) for i in range(50)]
    log = write(rows, tmp_path / "log.parquet")
    aggregate(plan(log, tmp_path / "whole"))
    real, calls = module._part, []

    def dying(made, number):
        calls.append(number)
        if number == 2:
            raise KeyboardInterrupt("stopped")
        return real(made, number)

    monkeypatch.setattr(module, "_part", dying)
    with pytest.raises(KeyboardInterrupt, match="stopped"):
        aggregate(plan(log, tmp_path / "out"))
    monkeypatch.setattr(module, "_part", real)
    report = aggregate(plan(log, tmp_path / "out", now=None))
    assert report["resumed"] == 2
    assert hash_files(tmp_path / "out") == hash_files(tmp_path / "whole")


def test_bad_input_is_one_sentence(tmp_path):
    log, out = write([("a", "x", "click", 1, 1.0)], tmp_path / "log.parquet"), tmp_path / "out"
    with pytest.raises(InvalidData, match="no column 'title'"):
        plan(log, out, columns=LogColumns(text="title"))
    with pytest.raises(InvalidData, match="has type double; texts"):
        plan(log, out, columns=LogColumns(text="weight"))
    with pytest.raises(InvalidParams, match="since_days = 0 is not acceptable"):
        plan(log, out, since_days=0)
    with pytest.raises(InvalidParams, match="min_count = 0 is not acceptable"):
        plan(log, out, min_count=0)
    with pytest.raises(InvalidData, match="after now = 2025"):
        aggregate(plan(log, tmp_path / "early", now=NOW - timedelta(days=90)))
    aggregate(plan(log, out))
    with pytest.raises(InvalidArgument, match="other inputs or settings"):
        aggregate(plan(log, out, top=1))
