"""A rollback goes to what was live before, never to a generation that was refused or taken back in between."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from retrieval.errors import DamagedData
from retrieval.store.lineage import ancestors, nothing_before

NAMES = ["000001-00000000", "000002-00000000", "000003-00000000", "000004-00000000"]


@dataclass
class _Manifest:
    parent: str | None


@pytest.mark.parametrize(
    ("parents", "live", "expected"),
    [
        ((None, 0, 1, 2), 3, [2, 1, 0]),
        ((None, 0, 0, 2), 3, [2, 0]),  # 1 was taken back before 2 was built
        ((None, 0, 0, 0), 2, [0]),
        ((None, None, None, None), 2, [1, 0]),  # nothing is known of parents: by number
        ((None, 0, 1, "gone"), 3, []),
        ((None, 0, "damaged", 2), 3, [2]),
        ((None, 3, 1, 2), 3, [2, 1]),  # a circle ends
    ],
)
def test_the_line_of_parents(parents: tuple[object, ...], live: int, expected: list[int]) -> None:
    def manifest(name: str) -> _Manifest:
        parent = parents[NAMES.index(name)] if name in NAMES else "gone"
        if parent in ("damaged", "gone") and name not in NAMES:
            raise DamagedData("gone")
        if parent == "damaged":
            raise DamagedData("damaged")
        return _Manifest(NAMES[parent] if isinstance(parent, int) else "000000-00000000" if parent == "gone" else None)

    assert ancestors(NAMES[live], NAMES, manifest) == [NAMES[number] for number in expected]  # type: ignore[arg-type]


def test_the_way_out_names_what_there_is() -> None:
    sentence = str(nothing_before("pin", NAMES[1], NAMES[:2]))
    assert sentence.endswith("is there; publish one by name: 000001-00000000")
    assert str(nothing_before("pin", NAMES[0], NAMES[:1])).endswith("is there")
