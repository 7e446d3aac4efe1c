"""A caption for every entity's image: image files in, Parquet parts of id, caption and its provenance out.

The images go by in order, a part at a time, a batch at a time; memory is bounded by the list of ids and paths, the
captions of one part and the images of one batch. Batches never cross a part, so a run that was stopped ends with the
same bytes as one that was not. Knows nothing about how a caption is made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from index_builders.enrich.captioner import Captioner
from index_builders.enrich.images import ImageList, read_image
from index_builders.enrich.log import TIME
from index_builders.enrich.parts import PartFolder, stored_now
from retrieval.errors import InvalidData, InvalidParams
from retrieval.towers.text import NORMALISATION

Progress = Callable[[str, int, int], None]  # (stage, done, total)
PART_IMAGES = 512
MAX_BATCH, MAX_TOKENS = 1_024, 512
NAMED = 5  # unreadable images that are named


class CaptionPlan(NamedTuple):
    """All that the parts depend on, and the share of unreadable images above which the work stops."""

    out: Path
    images: ImageList
    column: str
    batch: int
    max_tokens: int
    max_unreadable: float
    now: datetime

    @property
    def partitions(self) -> int:
        """Number of parts."""
        return -(-len(self.images.ids) // PART_IMAGES)

    def content(self, captioner: Captioner) -> dict[str, Any]:
        """What shapes the parts, as JSON; where files lie does not."""
        return {
            "captioner": captioner.digest,
            "source": captioner.source,
            "images": self.images.sha256,
            "id_type": str(self.images.id_type),
            "column": self.column,
            "batch": self.batch,
            "max_tokens": self.max_tokens,
            "part_images": PART_IMAGES,
            "partitions": self.partitions,
            "now": self.now.isoformat(),
            "normalisation": NORMALISATION,
            "version": 1,
        }


def plan_captions(
    images: ImageList,
    out: Path,
    *,
    column: str = "captions",
    batch: int = 16,
    max_tokens: int = 32,
    max_unreadable: float = 0.01,
    now: datetime | None = None,
) -> CaptionPlan:
    """Say what will be made of the images; InvalidParams for a setting out of range.

    now: what provenance gives as the time of making, UTC where it has no zone; that of the run being continued, else
    the clock, when None.
    """
    for name, value, high in (("batch", batch, MAX_BATCH), ("max_tokens", max_tokens, MAX_TOKENS)):
        if not 1 <= value <= high:
            raise InvalidParams(f"{name} = {value} is not acceptable: give 1 to {high:,}")
    if not 0 <= max_unreadable <= 1:
        raise InvalidParams(f"max_unreadable = {max_unreadable:g} is not acceptable: give a share of 0 to 1")
    now = now or stored_now(out) or datetime.now(timezone.utc)
    now = now.replace(tzinfo=timezone.utc) if now.tzinfo is None else now.astimezone(timezone.utc)
    return CaptionPlan(out, images, column, batch, max_tokens, max_unreadable, now)


def make_captions(plan: CaptionPlan, captioner: Captioner, *, progress: Progress | None = None) -> dict[str, Any]:
    """Make every part that is not finished; the report has images, captions, unreadable, empty, parts, resumed, source.

    InvalidArgument when the folder holds something else; InvalidData when a larger share of the images is unreadable
    than the plan allows, which leaves the finished parts for a run that allows more.
    """
    content = plan.content(captioner)
    folder = PartFolder(plan.out, hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest())
    folder.claim(content)
    images = len(plan.images.ids)
    total = {"captions": 0, "unreadable": 0, "empty": 0, "resumed": 0}
    named: list[str] = []
    for number in range(plan.partitions):
        report = folder.finished(number)
        if report is None:
            table, report = _part(plan, captioner, number, progress)
            folder.write(number, table, report)
        else:
            total["resumed"] += 1
            if progress is not None:
                progress("captions", min((number + 1) * PART_IMAGES, images), images)
        for name in ("captions", "unreadable", "empty"):
            total[name] += report[name]
        named = [*named, *report["named"]][:NAMED]
        if total["unreadable"] > plan.max_unreadable * images:
            raise InvalidData(
                f"{total['unreadable']:,} of {images:,} images cannot be read ({', '.join(named)}), the limit is "
                f"{plan.max_unreadable:g} of them: repair them or raise --max-unreadable"
            )
    return {
        "out": str(plan.out),
        "now": plan.now.isoformat(),
        "source": captioner.source,
        "images": images,
        **total,
        "named": named,
        "parts": plan.partitions,
    }


def _part(
    plan: CaptionPlan, captioner: Captioner, number: int, progress: Progress | None
) -> tuple[pa.Table, dict[str, Any]]:
    start = number * PART_IMAGES
    ids = plan.images.ids[start : start + PART_IMAGES]
    paths = plan.images.paths[start : start + PART_IMAGES].to_pylist()
    captions: list[str] = []  # of each image; empty where there is none
    unreadable: list[str] = []
    for at in range(0, len(paths), plan.batch):
        read = [(path, read_image(plan.images.root / path)) for path in paths[at : at + plan.batch]]
        unreadable += [path for path, image in read if image is None]
        written = iter(captioner.caption([image for _, image in read if image is not None], max_tokens=plan.max_tokens))
        captions += ["" if image is None else next(written) for _, image in read]
        if progress is not None:
            progress("captions", start + len(captions), len(plan.images.ids))
    has = [i for i, caption in enumerate(captions) if caption]
    n = len(has)
    lists = pa.array(np.arange(n + 1), pa.int32())
    provenance = pa.StructArray.from_arrays(
        [pa.array([captioner.source] * n, pa.string()), pa.array([plan.now] * n, TIME)], names=["source", "made"]
    )
    table = pa.table(
        {
            "id": ids.take(pa.array(has, pa.int64())),
            plan.column: pa.ListArray.from_arrays(lists, pa.array([captions[i] for i in has], pa.string())),
            f"{plan.column}_provenance": pa.ListArray.from_arrays(lists, provenance),
        }
    )
    empty = len(paths) - n - len(unreadable)
    return table, {"captions": n, "unreadable": len(unreadable), "empty": empty, "named": unreadable[:NAMED]}
