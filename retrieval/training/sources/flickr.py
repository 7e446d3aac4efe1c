"""Flickr30k captions: an image is a pin whose captions are its text; one caption is held back as the query.

Training images appear in several views, each with another caption as query and the rest as text, so that no query's own
words are among its answer's. Validation and test images are those of the published splits, with their first caption as
query; German captions of the same images ask for the same English pins.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow as pa

from retrieval.training.sources.tables import Split, held_out_key, pair, read_source, write_source

TASK, GERMAN_TASK = "flickr", "flickr_de"
_SPLITS = {"train": Split.TRAIN, "val": Split.VALIDATION, "test_2016": Split.TEST}


def prepare_flickr(
    data: Path, out: Path, *, views: int = 1, german: bool = False, held_out: Collection[str] = ()
) -> dict[str, int]:
    """Tables from `flickr30k_captions.parquet` in `data`; returns the number of pairs per split. Split by image.

    views: of each training image, 1 to 5; the first is the image itself, the others are copies named image#1 …, of
    entity type `view` so that only pins are searched. german: German queries as a task of their own.
    held_out: keys of images that are not trained on whatever their published split says. InvalidData for a file that is
    absent or lacks a column, InvalidArgument when `out` exists.
    """
    images = read_source(data / "flickr30k_captions.parquet", ["image", "split", "en", "de"]).to_pylist()
    ids: list[str] = []
    types: list[str] = []
    captions: list[list[str]] = []
    pairs: dict[Split, list[dict[str, Any]]] = {split: [] for split in Split}
    held = set()
    for image in images:
        split = _SPLITS[image["split"]]
        if split is Split.TRAIN and held_out_key(image["image"]) in held_out:
            split = Split.TEST
        if split is not Split.TRAIN:
            held.add(held_out_key(image["image"]))
        for view in range(min(views, len(image["en"])) if split is Split.TRAIN else 1):
            ids.append(f"fl:{image['image']}" + (f"#{view}" if view else ""))
            types.append("view" if view else "pin")
            captions.append(image["en"][:view] + image["en"][view + 1 :])
            pairs[split].append(pair(image["en"][view], TASK, entity=ids[-1]))
            if german:
                pairs[split].append(pair(image["de"][view % len(image["de"])], GERMAN_TASK, entity=ids[-1]))
    entities = pa.table({"id": ids, "entity_type": types, "captions": pa.array(captions, pa.list_(pa.string()))})
    write_source(out, entities, pairs, held)
    return {str(split): len(rows) for split, rows in pairs.items()}
