"""docs/training.md: its table names every setting with its default, and its example is a valid configuration."""

import re
import sys
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from retrieval.training.config import TaskSettings, TrainSettings, make_settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TEXT = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")


def settings_of(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Dotted names of all settings and their defaults."""
    out: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
        sections = [kind for kind in kinds if issubclass(kind, BaseModel)]
        if sections == [TaskSettings]:
            out |= settings_of(TaskSettings, f"{prefix}{name}.NAME.")
        elif sections:
            out |= settings_of(sections[0], f"{prefix}{name}.")
        else:
            out[prefix + name] = None if field.is_required() else field.get_default(call_default_factory=True)
    return out


def test_the_table_has_every_setting_with_its_default() -> None:
    listed = dict(re.findall(r"^\| `([\w.]+)` \| ([^|]+) \| [^|]+ \|$", TEXT, flags=re.MULTILINE))
    expected = settings_of(TrainSettings)
    assert len(expected) > 50
    assert {name for name in listed if "." in name and name != "state.bin"} >= set(expected)
    for name, default in expected.items():
        if isinstance(default, bool):
            assert listed[name] == str(default).lower(), name
        elif isinstance(default, int | float):
            assert float(listed[name].replace(",", "")) == default, name


def test_the_example_is_a_valid_configuration() -> None:
    found = re.search(r"```toml\n(.*?)```", TEXT, flags=re.DOTALL)
    assert found is not None
    settings = make_settings(tomllib.loads(found[1]), where="docs")
    assert settings.tasks["old_pins"].frozen_space == "my-tower-v1"
