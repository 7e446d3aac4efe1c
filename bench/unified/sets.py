"""The data sets of the studies: prepared once from their sources, each with its tasks and text columns.

    homedepot    shop queries, product titles; also which queries ask for the same product
    engaged      the same products, half of the training queries as text of the product they found, half as pairs
    flickr       one caption asks for an image that has a title (another caption) and captions (the others)
    icecat       the shipped products; the test is the judged queries
    tate         the shipped pins; subjects ask for the pins that they were taken out of

Knows nothing about models.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from retrieval.training.sources.flickr import prepare_flickr
from retrieval.training.sources.homedepot import prepare_homedepot
from retrieval.training.sources.icecat import prepare_icecat
from retrieval.training.sources.tables import Split, held_out_place, pair, write_source
from retrieval.training.sources.tate import prepare_tate

TATE_PINS = 20_000  # of 69,202, spread evenly: encoding all of them would take longer than all trainings together
MAX_QUERIES = 24  # of one product that are compared for query-to-query pairs

_Prepare = Callable[[Path, Path], object]


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """texts: feature columns; tasks: settings by name, the first is the one that is searched for entities."""

    texts: tuple[str, ...]
    tasks: Mapping[str, Mapping[str, Any]]
    prepare: _Prepare = field(repr=False)


def prepared(name: str, data: Path, work: Path, *, limit: int | None) -> Path:
    """Folder of a set's tables, made if it is not there; limit: about how many entities, for a quick look."""
    folder = work / "tables" / (name if limit is None else f"{name}-{limit}")
    if folder.is_dir():
        return folder
    if limit is None:
        SETS[name].prepare(data, folder)
        return folder
    whole = prepared(name, data, work, limit=None)
    pairs: dict[Split, list[dict[str, Any]]] = {}
    for split, share in ((Split.TRAIN, limit), (Split.VALIDATION, limit // 8), (Split.TEST, limit // 8)):
        rows = pq.read_table(whole / f"{split}.parquet").to_pylist()
        tasks = sorted({row["task"] for row in rows})
        pairs[split] = [row for task in tasks for row in [r for r in rows if r["task"] == task][:share]]
    needed = {row["id"] for rows in pairs.values() for row in rows}
    table = pq.read_table(whole / "entities.parquet")
    first = [entity in needed or number < limit for number, entity in enumerate(table.column("id").to_pylist())]
    write_source(folder, table.filter(pa.array(first)), pairs, ())
    return folder


def _homedepot(data: Path, out: Path) -> None:
    plain = out.with_name(f".{out.name}.plain")
    if not plain.is_dir():
        prepare_homedepot(data, plain)
    pairs = _pairs(plain)
    for rows in pairs.values():
        rows += _alike(rows)
    write_source(out, pq.read_table(plain / "entities.parquet"), pairs, _lines(plain))


def _alike(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Queries of one split that found the same product ask for each other."""
    asked: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        asked[row["id"]].append(row["query"])
    found = {
        (query, other): None
        for queries in asked.values()
        for query in queries[:MAX_QUERIES]
        for other in queries[:MAX_QUERIES]
        if query.lower() != other.lower()
    }
    return [pair(query, "homedepot_alike", answer=other) for query, other in found]


def _engaged(data: Path, out: Path) -> None:
    plain = out.with_name(f".{out.name}.plain")
    if not plain.is_dir():
        prepare_homedepot(data, plain)
    pairs, table = _pairs(plain), pq.read_table(plain / "entities.parquet")
    texts: dict[str, list[str]] = defaultdict(list)
    kept = []
    for row in pairs[Split.TRAIN]:
        if held_out_place(f"engaged {row['query']}") < 0.5:  # no query is both text and asked about
            texts[row["id"]].append(row["query"])
        else:
            kept.append({**row, "task": "engaged"})
    pairs[Split.TRAIN] = kept
    for split in (Split.VALIDATION, Split.TEST):
        pairs[split] = [{**row, "task": "engaged"} for row in pairs[split]]
    column = pa.array([texts.get(entity, []) for entity in table.column("id").to_pylist()], pa.list_(pa.string()))
    write_source(out, table.append_column("engaged", column), pairs, _lines(plain))


def _flickr(data: Path, out: Path) -> None:
    plain = out.with_name(f".{out.name}.plain")
    if not plain.is_dir():
        prepare_flickr(data, plain)
    table = pq.read_table(plain / "entities.parquet")
    captions = table.column("captions").to_pylist()
    table = table.set_column(
        table.column_names.index("captions"), "captions", pa.array([c[1:] for c in captions], pa.list_(pa.string()))
    ).append_column("title", pa.array([c[0] if c else None for c in captions], pa.string()))
    write_source(out, table, _pairs(plain), _lines(plain))


def _pairs(folder: Path) -> dict[Split, list[dict[str, Any]]]:
    return {split: pq.read_table(folder / f"{split}.parquet").to_pylist() for split in Split}


def _lines(folder: Path) -> list[str]:
    return (folder / "held_out.txt").read_text(encoding="utf-8").split()


SETS: dict[str, DataSet] = {
    "homedepot": DataSet(
        texts=("title",),
        tasks={"homedepot": {"entity_type": "product"}, "homedepot_alike": {"answer": "query"}},
        prepare=_homedepot,
    ),
    "engaged": DataSet(texts=("title", "engaged"), tasks={"engaged": {"entity_type": "product"}}, prepare=_engaged),
    "flickr": DataSet(texts=("title", "captions"), tasks={"flickr": {"entity_type": "pin"}}, prepare=_flickr),
    "icecat": DataSet(
        texts=("title", "brand", "color", "product_type", "attributes", "description"),
        tasks={"icecat": {"entity_type": "product"}, "related": {"answer": "query"}},
        prepare=lambda data, out: prepare_icecat(out),
    ),
    "tate": DataSet(
        texts=("title", "artist", "medium", "classification", "tags", "boards"),
        tasks={"tate": {"entity_type": "pin"}, "related": {"answer": "query"}},
        prepare=lambda data, out: prepare_tate(out, pins=TATE_PINS),
    ),
}
