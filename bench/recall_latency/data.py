"""One data set of a run: unit vectors and queries on disk, under a name and a SHA-256 over all of their bytes.

A set is asked for by a line: `clustered:500000x256`, `ood:...`, `duplicates:...` (with `,seed=2`),
`catalogue:pin:TOWER`, `catalogue:product:TOWER`, `texts:FILE.parquet:TOWER` (with `,rows=100000`), `FILE.hdf5`, or
`BASE.fvecs:QUERIES.fvecs[:TRUTH.ivecs]`. All sets are compared by cosine: rows are brought to unit length, whatever
the publisher's metric. Knows nothing about engines.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.recall_latency import vector_files
from bench.recall_latency.generators import GENERATORS, Draw
from retrieval import topk
from retrieval.errors import DamagedData, InvalidData, InvalidParams
from retrieval.types import F32, AnyArray

Progress = Callable[[str, int, int], None]
_ORDERS = (
    "clustered:ROWSxDIM, ood:ROWSxDIM, duplicates:ROWSxDIM, catalogue:pin:CHECKPOINT, catalogue:product:CHECKPOINT, "
    "texts:FILE.parquet:CHECKPOINT, FILE.hdf5 or BASE.fvecs:QUERIES.fvecs"
)


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """folder holds xb.npy and xq.npy, float32 [n, d] and [q, d] with unit rows; digest: SHA-256 over both."""

    name: str
    order: str
    digest: str
    n: int
    d: int
    q: int
    folder: Path = field(compare=False)
    given_truth: Path | None = None  # file of the publisher's nearest rows, held against ours

    def base(self) -> F32:
        """xb float32 [n, d], mapped."""
        return np.asarray(np.load(self.folder / "xb.npy", mmap_mode="r"))

    def queries(self) -> F32:
        """xq float32 [q, d]."""
        return np.asarray(np.load(self.folder / "xq.npy"))


def make_data(order: str, work: Path, *, queries: int, progress: Progress | None = None) -> DataSet:
    """The data set that `order` asks for, from the cache under `work` or made now.

    Raises InvalidParams for an order that is none, InvalidData for files that cannot be used (truncated, of two
    dimensions, with NaN or zero rows), DamagedData for a cached set whose bytes are not those of its digest.
    """
    if queries < 1:
        raise InvalidParams(f"queries = {queries} is not acceptable: ask for 1 or more")
    key = hashlib.sha256(json.dumps([order, queries, _marks(order)]).encode()).hexdigest()[:12]
    folder = work / "data" / f"{_name(order)}-{key}"
    if not (folder / "data.json").is_file():
        draw, truth = _drawer(order)(work, queries, progress)
        _check(order, draw)
        _write(folder, order, Draw(_unit(draw.xb), _unit(draw.xq)), truth)
    return _open(folder)


def digest_of(xb: AnyArray, xq: AnyArray) -> str:
    """SHA-256 over shapes and bytes of base and queries."""
    found = hashlib.sha256()
    for x in (xb, xq):
        found.update(json.dumps([str(x.dtype), list(x.shape)]).encode())
        for start in range(0, len(x), 65_536):
            found.update(x[start : start + 65_536].tobytes())
    return found.hexdigest()


def check_order(order: str) -> None:
    """InvalidParams for an order that is none; what its files hold is seen when they are read."""
    _drawer(order)


def _drawer(order: str) -> Callable[[Path, int, Progress | None], tuple[Draw, Path | None]]:
    """What makes the set, given the folder of caches, the number of queries and the progress."""
    head, _, rest = order.partition(":")
    first = Path(head)
    if first.suffix in vector_files.HDF5:
        return lambda work, queries, progress: _read_hdf5(first, queries)
    if first.suffix in vector_files.VECS:
        paths = [Path(part) for part in rest.split(":") if part]
        if len(paths) not in (1, 2) or any(path.suffix not in vector_files.VECS for path in paths):
            raise InvalidParams(f"data {order!r} is not acceptable: write BASE.fvecs:QUERIES.fvecs[:TRUTH.ivecs]")
        return lambda work, queries, progress: _read_vecs(first, paths, queries)
    if head in GENERATORS:
        body, options = _options(rest, order)
        try:
            n, d = (int(part) for part in body.split("x"))
            seed = int(options.pop("seed", "1"))
        except ValueError:
            n = d = seed = 0
        if n < 1 or d < 1 or seed < 0 or options:
            raise InvalidParams(f"data {order!r} is not acceptable: write {head}:ROWSxDIM or {head}:ROWSxDIM,seed=2")
        return lambda work, queries, progress: (GENERATORS[head](n, d, queries, seed), None)
    if head in ("catalogue", "texts"):
        body, options = _options(rest, order)
        what, _, checkpoint = body.partition(":")
        if not checkpoint:
            raise InvalidParams(f"data {order!r} is not acceptable: a checkpoint is missing; write one of {_ORDERS}")
        rows = options.pop("rows", None) if head == "texts" else None
        if options or not (rows is None or rows.isdigit()):
            raise InvalidParams(f"data {order!r} is not acceptable: only texts: takes ,rows=NUMBER, and nothing else")
        limit = None if rows is None else int(rows)
        return lambda work, queries, progress: (
            _embed(head, what, Path(checkpoint), limit, queries, work, progress),
            None,
        )
    raise InvalidParams(f"data {order!r} is not acceptable: write one of {_ORDERS}")


def _read_hdf5(path: Path, queries: int) -> tuple[Draw, Path | None]:
    xb, xq, has_truth = vector_files.read_hdf5(path, limit_queries=queries)
    return Draw(xb, xq), path if has_truth else None


def _read_vecs(base: Path, others: list[Path], queries: int) -> tuple[Draw, Path | None]:
    xb, xq = vector_files.read_vecs(base), vector_files.read_vecs(others[0], queries)
    return Draw(np.asarray(xb, np.float32), np.asarray(xq, np.float32)), others[1] if len(others) == 2 else None


def _embed(
    head: str, what: str, checkpoint: Path, limit: int | None, queries: int, work: Path, progress: Progress | None
) -> Draw:
    from bench.recall_latency.texts import catalogue_draw, texts_draw  # and with it torch

    if head == "catalogue":
        return catalogue_draw(what, checkpoint, queries, progress)
    return texts_draw(Path(what), checkpoint, limit, queries, work / "encoded", progress)


def _marks(order: str) -> list[list[Any]]:
    """Sizes and times of the files that an order names, so that a file which changed is read again."""
    marks = []
    for part in order.partition(",")[0].split(":"):
        path = Path(part)
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file():
                marks.append([str(file), file.stat().st_size, file.stat().st_mtime_ns])
    return marks


def _options(text: str, order: str) -> tuple[str, dict[str, str]]:
    body, *rest = text.split(",")
    pairs = [part.partition("=") for part in rest]
    if any(not mark for _, mark, _ in pairs):
        raise InvalidParams(f"data {order!r} is not acceptable: after a comma comes NAME=VALUE")
    return body, {name: value for name, _, value in pairs}


def _check(order: str, draw: Draw) -> None:
    for what, x in (("base", draw.xb), ("queries", draw.xq)):
        if x.ndim != 2 or not len(x):
            raise InvalidData(f"the {what} of {order} have the shape {x.shape}: rows of vectors are needed")
        good = topk.check_vectors(x)
        if not good.all():
            raise InvalidData(
                f"row {int(np.flatnonzero(~good)[0])} of the {what} of {order} is zero or not finite, so that no "
                "cosine is defined: remove such rows"
            )
    if draw.xb.shape[1] != draw.xq.shape[1]:
        raise InvalidData(
            f"the queries of {order} have {draw.xq.shape[1]} dimensions and its base {draw.xb.shape[1]}: "
            "give files that belong together"
        )


def _unit(x: F32) -> F32:
    """Unit rows, in blocks; rows that are unit already keep their bytes."""
    out = np.ascontiguousarray(x, np.float32)
    for start in range(0, len(out), 65_536):
        block = out[start : start + 65_536]
        norms = np.sqrt(np.einsum("nd,nd->n", block, block, dtype=np.float64))
        if np.abs(norms - 1).max() > 1e-5:
            out[start : start + 65_536] = topk.normalise(block)
    return out


def _write(folder: Path, order: str, draw: Draw, truth: Path | None) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    np.save(partial / "xb.npy", draw.xb)
    np.save(partial / "xq.npy", draw.xq)
    found = DataSet(
        name=_name(order),
        order=order,
        digest=digest_of(draw.xb, draw.xq),
        n=len(draw.xb),
        d=draw.xb.shape[1],
        q=len(draw.xq),
        folder=folder,
        given_truth=truth,
    )
    facts = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(found).items()}
    facts.pop("folder")
    (partial / "data.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def _open(folder: Path) -> DataSet:
    try:
        facts: dict[str, Any] = json.loads((folder / "data.json").read_text(encoding="utf-8"))
        truth = facts.pop("given_truth")
        found = DataSet(**facts, folder=folder, given_truth=Path(truth) if truth else None)
        intact = digest_of(found.base(), found.queries()) == found.digest
    except (OSError, ValueError, TypeError, KeyError):
        intact = False
    if not intact:
        raise DamagedData(f"the cached vectors in {folder} are not those of its data.json: remove the folder")
    return found


def _name(order: str) -> str:
    """A short name that a file can have: the stem of a file, or the order without its paths."""
    head, _, rest = order.partition(":")
    if Path(head).suffix in (*vector_files.VECS, *vector_files.HDF5):
        return _plain(Path(head).stem)
    if head in GENERATORS:
        return _plain(order)
    what, _, _ = rest.partition(":")
    return _plain(f"{head}-{Path(what).stem}")


def _plain(text: str) -> str:
    kept = "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in text)
    return kept.strip("-.") or "data"
