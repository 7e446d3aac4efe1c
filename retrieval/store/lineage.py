"""Which generations a rollback may go to: those that were live before the live one, by what the manifests say.

A generation that was built, refused or rolled back in between is older by its number and was never what the live one
replaced, so it is passed over. Knows nothing about where manifests are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from retrieval.errors import NoGeneration, RetrievalError
from retrieval.store.manifest import Manifest


def ancestors(live: str, generations: Sequence[str], manifest: Callable[[str], Manifest]) -> list[str]:
    """Generations to go back to from `live`, the nearest first; those older by number where no parent is named.

    generations: ids that there are, oldest first. manifest: of one of them; its errors end the line of parents.
    """
    older = [name for name in generations if name < live]
    found: list[str] = []
    parent = _parent(live, manifest)
    if parent is None:
        return older[::-1]
    while parent is not None and parent not in found:
        found.append(parent)
        parent = _parent(parent, manifest)
    return [name for name in found if name in older]


def _parent(generation: str, manifest: Callable[[str], Manifest]) -> str | None:
    try:
        return manifest(generation).parent
    except RetrievalError:
        return None


def nothing_before(entity_type: str, live: str, generations: Sequence[str]) -> NoGeneration:
    """The error when there is nothing to go back to, naming what could be published instead."""
    others = [name for name in generations if name != live]
    way_out = f"; publish one by name: {', '.join(others)}" if others else ""
    return NoGeneration(f"no generation of {entity_type!r} that was live before {live} is there{way_out}")


def nothing_live(entity_type: str, where: str, generations: Sequence[str], entity_types: Sequence[str]) -> NoGeneration:
    """The error when an entity type has no live generation, naming what is there instead."""
    if generations:
        way_out = f"publish one of its generations: {', '.join(generations)}"
    else:
        way_out = f"there are: {', '.join(entity_types) or 'none'}"
    return NoGeneration(f"nothing is published for entity type {entity_type!r} in {where}; {way_out}")
