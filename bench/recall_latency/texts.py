"""Data sets of embedded texts: the shipped catalogue, and a Parquet file of many short texts.

The entity tower of a checkpoint embeds what is searched, its query tower the queries, so the queries are drawn
elsewhere than the rows, as in life. A long encoding is kept part by part in a cache named by space and file, so that
a stopped one goes on. Knows nothing about engines.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.recall_latency.generators import Draw
from retrieval import catalogue
from retrieval.errors import InvalidData, InvalidParams
from retrieval.towers.checkpoint import read_checkpoint
from retrieval.towers.entity import EntityTower
from retrieval.towers.query import QueryTower
from retrieval.types import F32

_PART_ROWS = 8_192
_TITLE_WORDS = 4
_SEED = 11


def catalogue_draw(
    entity_type: str, checkpoint: Path, queries: int, progress: Callable[[str, int, int], None] | None
) -> Draw:
    """The shipped pins or products by the entity tower; judged queries and first words of titles by the query tower.

    Raises InvalidParams for another entity type, StoreError or DamagedData for a checkpoint that cannot be trusted.
    """
    if entity_type not in ("pin", "product"):
        raise InvalidParams(f"catalogue:{entity_type} is not acceptable: the catalogue has pin and product")
    table = catalogue.pins() if entity_type == "pin" else catalogue.products()
    asked = [] if entity_type == "pin" else list(dict.fromkeys(catalogue.judgments().column("query").to_pylist()))
    titles = table.column("title").to_pylist()
    spread = (np.arange(queries) * len(titles) // queries).tolist()
    asked += [" ".join(titles[row].split()[:_TITLE_WORDS]).lower() for row in spread if titles[row]]
    tower = EntityTower.load(checkpoint, threads=1)
    kept = table.filter(pa.array(tower.present(table)))
    parts = []
    for start in range(0, kept.num_rows, _PART_ROWS):
        parts.append(tower.encode(kept.slice(start, _PART_ROWS)))
        if progress is not None:
            progress(f"embedding {entity_type}s", min(start + _PART_ROWS, kept.num_rows), kept.num_rows)
    texts = [text for text in dict.fromkeys(asked) if text.strip()][:queries]
    return Draw(np.concatenate(parts), QueryTower.load(checkpoint, threads=1).encode(texts))


def texts_draw(
    path: Path,
    checkpoint: Path,
    rows: int | None,
    queries: int,
    cache: Path,
    progress: Callable[[str, int, int], None] | None,
) -> Draw:
    """Texts of a Parquet file with a column `text`: some, seeded, become queries, the others (at most `rows`) the base.

    Texts are read row group by row group and encoded in parts of 8,192, each kept in `cache`. Raises InvalidData when
    the file is absent, damaged, has no such column or too few rows.
    """
    try:
        file = pq.ParquetFile(path)
        column = file.schema_arrow.field("text")
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise InvalidData(f"{path} is no Parquet file with a column 'text' ({error}): give one") from None
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise InvalidData(f"column 'text' of {path} holds {column.type}: it must hold strings")
    total = file.metadata.num_rows
    wanted = total - queries if rows is None else rows
    if wanted < 1 or wanted + queries > total:
        raise InvalidData(f"{path} has {total} texts, too few for {wanted} rows and {queries} queries: ask for fewer")
    config = read_checkpoint(checkpoint).config
    name = hashlib.sha256(f"{config.space_id} {path.name} {total} {_mark(path)} {queries}".encode()).hexdigest()[:16]
    folder = cache / name
    folder.mkdir(parents=True, exist_ok=True)
    is_query = np.zeros(total, bool)
    is_query[np.random.default_rng(_SEED).permutation(total)[:queries]] = True
    entity = EntityTower.load(checkpoint, threads=1, precision="auto")
    text_column = entity.text_columns[0] if entity.text_columns else "title"
    parts, asked, seen, done = [], [], 0, 0
    for batch in file.iter_batches(batch_size=_PART_ROWS, columns=["text"]):
        texts = batch.column(0).to_pylist()
        flags = is_query[seen : seen + len(texts)]
        asked += [text for text, flag in zip(texts, flags, strict=True) if flag and text and text.strip()]
        if done < wanted:
            base = [text for text, flag in zip(texts, flags, strict=True) if not flag and text and text.strip()]
            part = folder / f"part-{seen:09d}.npy"
            parts.append(_encoded(part, lambda base=base: entity.encode(pa.table({text_column: base}))))  # type: ignore[misc]
            done += len(parts[-1])
            if progress is not None:
                progress(f"embedding texts of {path.name}", min(done, wanted), wanted)
        seen += len(texts)
    tower = QueryTower.load(checkpoint, threads=1)
    xq = _encoded(folder / "queries.npy", lambda: tower.encode(asked))
    return Draw(np.concatenate(parts)[:wanted], xq)


def _encoded(path: Path, encode: Callable[[], F32]) -> F32:
    if not path.is_file():
        partial = path.with_name(f".{path.name}.partial.npy")
        np.save(partial, encode())
        os.replace(partial, path)
    return np.asarray(np.load(path), np.float32)


def _mark(path: Path) -> str:
    """SHA-256 over the file's size, head and tail: enough to tell another file of the same name."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(1 << 20)
        file.seek(max(0, size - (1 << 20)))
        return hashlib.sha256(head + file.read() + str(size).encode()).hexdigest()
