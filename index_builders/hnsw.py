"""Builds an HNSW shard: hnswlib makes the graph, this file turns it into plain arrays that can be memory-mapped.

Rows are put into the order in which a breadth-first walk of the graph meets them, so that rows which a search visits
together lie together; the report's "order" says which input row went where. Codes are kept only when they cost
(almost) no recall. Knows nothing about ids, attributes, checksums or manifests.
"""

from __future__ import annotations

import errno
import os
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import hnswlib
import numpy as np

from index_builders.flat import allocate_array, write_array, write_vectors
from retrieval import kernel
from retrieval.errors import InvalidData
from retrieval.indexes import hnsw
from retrieval.indexes.arrays import VECTORS, give_back_pages, open_array, write_description
from retrieval.indexes.hnsw import CodesDescription, HnswDescription, HnswIndex
from retrieval.params import HnswBuild, HnswSearch
from retrieval.types import F32, I64, U32, AnyArray, Metric

MAX_RECALL_COST = 0.005  # codes that lose more recall than this at the same effort are not walked
_CHUNK_ROWS = 16_384
_SAMPLE_QUERIES, _SAMPLE_K = 200, 100
_UNIT_TOLERANCE = 1e-3
_NONE = 0xFFFFFFFF
_HEADER = struct.Struct("<6QiI3QdQ")  # hnswlib's HierarchicalNSW::saveIndex


def build_shard(
    vectors: F32,
    out: Path,
    *,
    params: HnswBuild,
    metric: Metric,
    seed: int,
    threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> dict[str, object]:
    """Write the HNSW index of vectors [n, d] (unit rows for cosine) into the directory `out`.

    progress hears the number of rows done. threads = 1 gives the same bytes for the same input and seed. Returns a
    JSON-able report, and under "order" int64 [n]: row r of the shard is row order[r] of `vectors`. Raises InvalidData
    when there is no row, or when a value does not fit the stored type.
    """
    if len(vectors) == 0:
        raise InvalidData("an index needs at least one row")
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=out, prefix=".building-") as scratch:
        saved = Path(scratch) / "graph"
        _build_graph(vectors, saved, params, metric, seed, threads, progress)
        built = time.perf_counter()
        layers = read_saved_graph(saved)
    return export(vectors, layers, out, params=params, metric=metric, seed=seed, threads=threads) | {
        "build_s": built - started,
        "export_s": time.perf_counter() - built,
    }


def _build_graph(
    vectors: F32,
    saved: Path,
    params: HnswBuild,
    metric: Metric,
    seed: int,
    threads: int,
    progress: Callable[[int], None] | None,
) -> None:
    n, d = vectors.shape
    index = hnswlib.Index(space="l2" if metric is Metric.L2 else "ip", dim=d)
    index.init_index(max_elements=n, M=params.m, ef_construction=params.ef_construction, random_seed=seed)
    for first in range(0, n, _CHUNK_ROWS):
        part = np.array(vectors[first : first + _CHUNK_ROWS], dtype=np.float32)
        give_back_pages(vectors)  # hnswlib holds these rows now; twice would be half of the build's memory
        index.add_items(part, np.arange(first, first + len(part)), num_threads=threads)
        if progress is not None:
            progress(first + len(part))
    index.save_index(str(saved))
    if saved.stat().st_size != index.index_file_size():
        # hnswlib does not look at what its writes return
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(saved))


@dataclass(frozen=True)
class SavedGraph:
    """hnswlib's graph in its own numbering.

    labels int64 [n]; base uint32 [n, width], padded; upper: of each layer from 1 on, nodes (rows, ascending) and links
    uint32 [nodes, upper_width] as positions in that layer's nodes, padded.
    """

    labels: I64
    base: U32
    upper: list[tuple[U32, U32]]
    entry: int


def read_saved_graph(file: Path) -> SavedGraph:
    """Read the graph, without the vectors, from a file that hnswlib's save_index wrote."""
    with file.open("rb") as stream:
        header = _HEADER.unpack(stream.read(_HEADER.size))
    n, element_bytes, label_offset, top, entry = header[2], header[3], header[4], header[6], header[7]
    upper_width, width = header[8], header[9]
    element = np.dtype(
        {
            "names": ["count", "links", "label"],
            "formats": ["<u2", ("<u4", (width,)), "<u8"],
            "offsets": [0, 4, label_offset],
            "itemsize": element_bytes,
        }
    )
    elements = np.memmap(file, dtype=element, mode="r", offset=_HEADER.size, shape=(n,))
    base = np.array(elements["links"], dtype=np.uint32)
    base[np.arange(width)[None, :] >= elements["count"][:, None]] = _NONE
    labels = np.array(elements["label"], dtype=np.int64)
    del elements
    # After the elements: for each row the bytes of its upper lists (mostly 0), then the lists, layer 1 first.
    words = np.fromfile(file, dtype="<u4", offset=_HEADER.size + n * element_bytes)
    links: list[list[AnyArray]] = [[] for _ in range(top)]
    nodes: list[list[int]] = [[] for _ in range(top)]
    filled = np.flatnonzero(words)
    at = node = seen = 0
    while (seen := int(np.searchsorted(filled, at))) < len(filled):
        start = int(filled[seen])
        node += start - at
        levels = int(words[start]) // (4 * (upper_width + 1))
        for level in range(levels):
            part = words[start + 1 + level * (upper_width + 1) :][: upper_width + 1]
            part = np.where(np.arange(upper_width) < (part[0] & 0xFFFF), part[1:], _NONE)
            links[level].append(part.astype(np.uint32))
            nodes[level].append(node)
        at, node = start + 1 + int(words[start]) // 4, node + 1
    upper = []
    for rows, lists in zip(nodes, links, strict=True):
        here, targets = np.array(rows, dtype=np.uint32), np.stack(lists)
        upper.append((here, np.where(targets == _NONE, _NONE, np.searchsorted(here, targets)).astype(np.uint32)))
    return SavedGraph(labels=labels, base=base, upper=upper, entry=entry)


def export(
    vectors: F32, saved: SavedGraph, out: Path, *, params: HnswBuild, metric: Metric, seed: int, threads: int
) -> dict[str, object]:
    """Write every file of the shard from hnswlib's graph; returns the report of `build_shard`."""
    n, d = vectors.shape
    order = _locality_order(saved)  # shard row -> hnswlib's row
    new_row = np.full(n + 1, _NONE, dtype=np.uint32)  # hnswlib's row -> shard row; the last entry serves the padding
    new_row[order] = np.arange(n, dtype=np.uint32)
    width = saved.base.shape[1]

    def neighbors() -> Iterator[AnyArray]:
        for first in range(0, n, _CHUNK_ROWS):
            yield new_row[np.minimum(saved.base[order[first : first + _CHUNK_ROWS]], n)]

    write_array(out / hnsw.NEIGHBORS, "uint32", (n, width), neighbors())
    layer_first, entry = _write_upper_layers(saved, new_row, params.m, out)
    source = saved.labels[order]
    write_vectors(vectors, out, source, params.vectors)
    give_back_pages(vectors)
    stored = open_array(out, VECTORS, str(params.vectors), (n, d))
    unit = metric is Metric.COSINE or (metric is Metric.INNER_PRODUCT and _all_unit(stored))
    data = allocate_array(out / hnsw.CODES, "uint8", (n, kernel.code_width(d)))
    codes, relative_error = kernel.encode(stored, metric, unit=unit, seed=seed, out=data, threads=threads)
    assert isinstance(data, np.memmap)
    data.flush()
    for name, values in ((hnsw.SCALE, codes.scale), (hnsw.BIAS, codes.bias)):
        if values is not None:
            np.save(out / name, values)
    description = HnswDescription(
        format=hnsw.FORMAT,
        version=hnsw.VERSION,
        n=n,
        d=d,
        metric=metric.value,
        vectors=params.vectors.value,
        m=params.m,
        ef_construction=params.ef_construction,
        seed=seed,
        width=width,
        upper_width=params.m,
        layer_first=layer_first,
        entry=entry,
        codes=CodesDescription(walk_bits=4, seed=seed, unit=unit, error=codes.error),
    )
    narrow = description.codes
    assert narrow is not None
    choices = [narrow, narrow.model_copy(update={"walk_bits": 8}), None]  # from the fastest to the most exact
    del stored, data, codes
    recalls = _recalls(out, [description.model_copy(update={"codes": c}) for c in choices], seed, threads)
    chosen = next(i for i, found in enumerate(recalls) if recalls[-1] - found <= MAX_RECALL_COST)
    description = description.model_copy(update={"codes": choices[chosen]})
    if choices[chosen] is None:
        for name in (hnsw.CODES, hnsw.SCALE, hnsw.BIAS):
            (out / name).unlink(missing_ok=True)
    write_description(description, out)
    degrees = (saved.base != _NONE).sum(axis=1)
    return {
        "order": source,
        "vectors": str(params.vectors),
        "codes": ("walked at 4 bits", "walked at 8 bits", "none: they would cost recall")[chosen],
        "quantisation_error": relative_error,
        "sample_recall": recalls[chosen],
        "sample_recall_by_codes": dict(zip(("4 bits", "8 bits", "none"), recalls, strict=True)),
        "degree_mean": float(degrees.mean()),
        "degree_min": int(degrees.min()),
        "layers": len(layer_first) - 1,
    }


def _locality_order(saved: SavedGraph) -> U32:
    """The rows in the order of the tree whose nodes are the layers' rows: a row's parent is the nearest one layer up.

    Nearest by links: the layer above walks breadth first from all of its rows at once. Rows that share a parent lie
    together, and parents that share a parent next to each other, so a search stays on few pages.
    """
    layers = [saved.base, *(links for _, links in saved.upper)]
    # position in each layer of the rows of the layer above
    parents = [np.searchsorted(below, above) for below, above in _pairs([None, *(nodes for nodes, _ in saved.upper)])]
    top = saved.entry if not saved.upper else int(np.searchsorted(saved.upper[-1][0], saved.entry))
    parents.append(np.array([top]))
    rank = np.zeros(1, dtype=np.int64)  # of each source, in the final order of its layer
    order = np.empty(0, dtype=np.uint32)
    for links, sources in zip(reversed(layers), reversed(parents), strict=True):
        owner, met = kernel.spread(links, sources.astype(np.uint32))
        order = met[np.argsort(rank[owner[met]], kind="stable")]
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
    return order


def _pairs(layers: list[U32 | None]) -> Iterator[tuple[AnyArray, U32]]:
    for below, above in pairwise(layers):
        assert above is not None
        yield (np.arange(above[-1] + 1) if below is None else below), above


def _write_upper_layers(saved: SavedGraph, new_row: U32, upper_width: int, out: Path) -> tuple[list[int], int]:
    rows: list[AnyArray] = []
    down: list[AnyArray] = []
    lists: list[AnyArray] = []
    layer_first = [0]
    for nodes, links in saved.upper:
        in_order = np.argsort(new_row[nodes])  # ascending, so that a row's slot below can be found by bisection
        here = new_row[nodes][in_order]
        slot = np.full(len(nodes) + 1, _NONE, dtype=np.uint32)  # position in nodes -> slot; the last serves the padding
        slot[in_order] = np.arange(len(nodes), dtype=np.uint32) + np.uint32(layer_first[-1])
        lists.append(slot[np.minimum(links[in_order], len(nodes))])
        below = np.uint32(layer_first[-2]) + np.searchsorted(rows[-1], here).astype(np.uint32) if rows else here
        down.append(below)
        rows.append(here)
        layer_first.append(layer_first[-1] + len(here))
    empty = np.empty(0, dtype=np.uint32)
    np.save(out / hnsw.UPPER_ROWS, np.concatenate([empty, *rows]))
    np.save(out / hnsw.UPPER_DOWN, np.concatenate([empty, *down]))
    np.save(out / hnsw.UPPER_NEIGHBORS, np.concatenate([empty.reshape(0, upper_width), *lists]))
    entry = int(new_row[saved.entry])
    if rows:
        entry = layer_first[-2] + int(np.searchsorted(rows[-1], entry))
    return layer_first, entry


def _all_unit(stored: AnyArray) -> bool:
    for first in range(0, len(stored), _CHUNK_ROWS):
        part = stored[first : first + _CHUNK_ROWS].astype(np.float32)
        if np.abs(np.einsum("nd,nd->n", part, part) - 1.0).max() > 2 * _UNIT_TOLERANCE:
            return False
    return True


def _recalls(out: Path, descriptions: list[HnswDescription], seed: int, threads: int) -> list[float]:
    """Recall at default effort under each description, for sampled rows as queries."""
    first = descriptions[0]
    k = min(_SAMPLE_K, first.n)
    sample = np.random.default_rng(seed).choice(first.n, size=min(_SAMPLE_QUERIES, first.n), replace=False)
    stored = open_array(out, VECTORS, first.vectors, (first.n, first.d))
    xq = stored[np.sort(sample)].astype(np.float32)
    _, true, _ = kernel.scan(stored, xq, k, Metric(first.metric), threads=threads)
    del stored  # each mapping of a file counts against this process again
    found = [HnswIndex(out, d).search(xq, k, HnswSearch(), threads=threads).scores for d in descriptions]
    return [float((scores >= true[:, -1:]).mean()) for scores in found]
