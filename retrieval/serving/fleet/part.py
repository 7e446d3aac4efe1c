"""Which shards a leaf serves: `product:0,2;pin:1`, read and held against what there is. Knows nothing about gRPC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from retrieval.errors import InvalidParams
from retrieval.store import Manifest


def read_part(text: str | None) -> dict[str, tuple[int, ...]] | None:
    """Entity type -> numbers of shards, in order; None, which is everything, when text is None.

    InvalidParams for what is not `type:number,number;type:number`.
    """
    if text is None:
        return None
    part: dict[str, tuple[int, ...]] = {}
    for each in (piece.strip() for piece in text.split(";")):
        entity_type, _, listed = each.partition(":")
        numbers = [number.strip() for number in listed.split(",")]
        if not entity_type or not all(number.isascii() and number.isdigit() for number in numbers):
            raise InvalidParams(f"shards = {text!r} has {each!r}: write an entity type and numbers, such as pin:0,2")
        if entity_type in part:
            raise InvalidParams(f"shards = {text!r} names {entity_type!r} twice: list its numbers together")
        part[entity_type] = tuple(sorted({int(number) for number in numbers}))
    return part


def check_types(part: Mapping[str, tuple[int, ...]] | None, there: Sequence[str]) -> None:
    """InvalidParams when an entity type is not in the store."""
    for entity_type in part or ():
        if entity_type not in there:
            raise InvalidParams(f"shards names {entity_type!r}, the store has {', '.join(there) or 'nothing'}")


def shard_names(manifest: Manifest, numbers: Sequence[int]) -> frozenset[str]:
    """The shards by their places in the manifest; InvalidParams for a number that is not there."""
    for number in numbers:
        if number >= len(manifest.shards):
            raise InvalidParams(
                f"shards names shard {number} of {manifest.entity_type}, which has 0 to {len(manifest.shards) - 1}"
            )
    return frozenset(manifest.shards[number].name for number in numbers)
