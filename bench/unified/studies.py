"""What is compared with what: every variant of every study as one entry, its difference from the base as overrides.

A variant is a training of `base.toml` with dotted overrides, on the tables of one or several sets, perhaps without some
text column (also left out of the text that the frozen encoder reads) or task. Knows nothing about how it is run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.unified.sets import SETS

BASE = "base"
PREFIXES = (16, 32, 64, 128, 256)
PAIRS_OF_A_TASK = 256  # in each step, however many tasks there are: the same budget for each
# what tells entities apart comes first: the frozen encoder reads the first tokens only
TEXT_ORDER = (
    "title", "captions", "engaged", "brand", "color", "product_type", "artist", "medium", "classification", "tags",
    "boards", "attributes", "description",
)  # fmt: skip
FEATURE = "text_embedding"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One training. without, without_tasks: text columns and tasks that are left out; frozen: also trained against
    embeddings of the space before. Equal trainings of several studies are run once.
    """

    study: str
    name: str
    sets: tuple[str, ...]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    without_tasks: tuple[str, ...] = ()
    frozen: bool = False
    rivals: bool = False  # BM25 and the zero-shot encoder beside the training of seed 0

    @property
    def texts(self) -> tuple[str, ...]:
        """Text features, in the order in which they are joined."""
        columns = {name for chosen in self.sets for name in SETS[chosen].texts} - set(self.without)
        return tuple(name for name in TEXT_ORDER if name in columns)

    @property
    def tasks(self) -> dict[str, dict[str, Any]]:
        """Tasks with their settings."""
        found = {name: dict(task) for chosen in self.sets for name, task in SETS[chosen].tasks.items()}
        return {name: task for name, task in found.items() if name not in self.without_tasks}

    def settings(self) -> dict[str, Any]:
        """What the figures follow from, besides base.toml and the seed."""
        return {
            "sets": list(self.sets),
            "texts": list(self.texts),
            "tasks": sorted(self.tasks),
            "overrides": dict(self.overrides),
            "frozen": self.frozen,
        }


@dataclass(frozen=True, kw_only=True)
class Study:
    """seeds: how many trainings of each variant at most, the time being what it is."""

    title: str
    variants: Sequence[Variant]
    seeds: int = 3


# name -> sets, and what is taken away: (overrides, text columns, tasks)
_ABLATIONS: dict[str, tuple[tuple[str, ...], dict[str, Any], tuple[str, ...], tuple[str, ...]]] = {
    "captions": (("flickr",), {}, ("captions",), ()),
    "boards": (("tate",), {}, ("boards",), ()),
    "engaged queries": (("engaged",), {}, ("engaged",), ()),
    "attributes": (("icecat",), {}, ("brand", "color", "product_type", "attributes"), ()),
    "random negatives": (("homedepot",), {"loss.random_weight": 0.0}, (), ()),
    "in-batch negatives": (("homedepot",), {"loss.in_batch_weight": 0.0}, (), ()),
    "probability correction": (("homedepot",), {"loss.correction": False}, (), ()),
    "query-to-query task": (("homedepot", "icecat"), {}, (), ("homedepot_alike", "related")),
    "hash bigrams": (("homedepot",), {"entity.model.tokenisations": ["words", "trigrams"]}, (), ()),
    "char trigrams": (("homedepot",), {"entity.model.tokenisations": ["words", "bigrams"]}, (), ()),
}
_MAIN = ("homedepot", "flickr", "icecat", "tate")
_NO_FEATURE = {"entity.encoded": None}


def _ablations() -> list[Variant]:
    chosen = list(dict.fromkeys(name for sets, *_ in _ABLATIONS.values() for name in sets))
    base = [Variant(study="ablations", name=f"{BASE} ({name})", sets=(name,), rivals=True) for name in chosen]
    return base + [
        Variant(
            study="ablations",
            name=f"without {part} ({name})",
            sets=(name,),
            overrides=overrides,
            without=without,
            without_tasks=tasks,
        )
        for part, (sets, overrides, without, tasks) in _ABLATIONS.items()
        for name in sets
    ]


def _baselines() -> list[Variant]:
    ours = [Variant(study="baselines", name=f"ours ({name})", sets=(name,), rivals=True) for name in _MAIN]
    return ours + [
        Variant(study="baselines", name=f"ours without zero-shot feature ({name})", sets=(name,), overrides=_NO_FEATURE)
        for name in _MAIN
    ]


def _unified() -> list[Variant]:
    together = Variant(study="unified", name="one model", sets=_MAIN)
    tasks = [(name, task) for name in _MAIN for task in SETS[name].tasks]
    alone = [
        Variant(
            study="unified",
            name=f"only {task} ({name})",
            sets=(name,),
            without_tasks=tuple(other for other in SETS[name].tasks if other != task),
        )
        for name, task in tasks
        if task != "related"  # it has no test pairs
    ]
    return [together, *alone]


STUDIES: dict[str, Study] = {
    "baselines": Study(title="Against baselines", variants=_baselines(), seeds=1),
    "unified": Study(title="Unified versus standalone", variants=_unified(), seeds=2),
    "ablations": Study(title="Ablations", variants=_ablations()),
    "compatibility": Study(
        title="Compatibility",
        variants=[
            Variant(study="compatibility", name=f"ours ({name})", sets=(name,), frozen=True)
            for name in ("homedepot", "icecat")
        ],
        seeds=1,
    ),
    "prefixes": Study(
        title="Prefixes",
        variants=[Variant(study="prefixes", name=f"ours ({name})", sets=(name,), rivals=True) for name in _MAIN],
        seeds=1,
    ),
}
