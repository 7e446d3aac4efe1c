"""The recipes by name: their sources, how each is prepared, and the list of what is held out of it.

Knows nothing about training.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from retrieval.errors import DamagedData, InvalidData, InvalidParams
from retrieval.training.sources.flickr import prepare_flickr
from retrieval.training.sources.homedepot import prepare_homedepot
from retrieval.training.sources.icecat import prepare_icecat
from retrieval.training.sources.tate import prepare_tate

Prepare = Callable[[Path, Path, Collection[str]], dict[str, int]]  # (data folder, out, held-out keys) -> pairs by split

DEMO_PINS = 20_000


@dataclass(frozen=True, kw_only=True)
class Source:
    """One data set of a recipe. files: what it reads of the data folder; none where the data is shipped."""

    prepare: Prepare
    files: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """settings_file: TOML of the training, without the tables, which follow from the sources."""

    name: str
    settings_file: Path
    sources: Mapping[str, Source]

    def check_data(self, data: Path | None) -> Path:
        """The data folder; InvalidParams when one is needed and not given, InvalidData when a file is not there."""
        for name, source in self.sources.items():
            for file in source.files:
                if data is None:
                    raise InvalidParams(
                        f"recipe {self.name!r} reads {file} for {name}: name the folder that holds it with --data"
                    )
                if not (data / file).is_file():
                    raise InvalidData(
                        f"{data / file} does not exist: recipe {self.name!r} needs it for {name}, name the folder that "
                        "holds the data sets with --data"
                    )
        return data or Path()


def named_recipe(name: str) -> Recipe:
    """The recipe of this name; InvalidParams lists the names there are."""
    if name not in RECIPES:
        raise InvalidParams(f"there is no recipe {name!r}: choose {' or '.join(RECIPES)}")
    return RECIPES[name]


def stored_held_out(source: str) -> frozenset[str]:
    """Keys that are never trained on; DamagedData when the list is absent or has a line that is none."""
    path = _FOLDER / "held_out" / f"{source}.txt"
    try:
        keys = path.read_text(encoding="utf-8").split()
    except OSError as error:
        raise DamagedData(
            f"the list of held-out queries {path} cannot be read ({error.strerror}): install this package again"
        ) from None
    bad = [key for key in keys if len(key) != 16 or set(key) - set("0123456789abcdef")]
    if bad or not keys:
        raise DamagedData(
            f"the list of held-out queries {path} has {bad[0] if bad else 'no line'!r} where 16 hexadecimal digits are "
            "expected: install this package again"
        )
    return frozenset(keys)


_FOLDER = Path(str(resources.files(__package__)))
_ICECAT = Source(prepare=lambda data, out, held_out: prepare_icecat(out, held_out=held_out))

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="demo",
            settings_file=_FOLDER / "demo.toml",
            sources={
                "icecat": _ICECAT,
                "tate": Source(
                    prepare=lambda data, out, held_out: prepare_tate(out, pins=DEMO_PINS, held_out=held_out)
                ),
            },
        ),
        Recipe(
            name="real",
            settings_file=_FOLDER / "real.toml",
            sources={
                "homedepot": Source(
                    prepare=lambda data, out, held_out: prepare_homedepot(data, out, held_out=held_out),
                    files=("homedepot_products.parquet", "homedepot_judgments.parquet"),
                ),
                "flickr": Source(
                    prepare=lambda data, out, held_out: prepare_flickr(data, out, german=True, held_out=held_out),
                    files=("flickr30k_captions.parquet",),
                ),
                "tate": Source(prepare=lambda data, out, held_out: prepare_tate(out, held_out=held_out)),
                "icecat": _ICECAT,
            },
        ),
    )
}
