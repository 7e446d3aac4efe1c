"""All of a training that the next step depends on, taken to a state file and back.

Model, optimiser, sketch, generator and position, with a fingerprint of settings and data: a state is taken up only by
the training that it belongs to. Knows nothing about how a step is made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from retrieval.errors import FailedPrecondition
from retrieval.training.config import TrainSettings
from retrieval.training.data import TrainData
from retrieval.training.model import UnifiedModel
from retrieval.training.sketch import CountMinSketch
from retrieval.training.state import pack_optimiser, read_state, unpack_optimiser, write_state


@dataclass(kw_only=True)
class Position:
    """Where a training stands. stale: validations since the best one; best_recalls: its recall@10 by task."""

    step: int = 0
    stale: int = 0
    best_score: float = -1.0
    best_step: int = 0
    best_recalls: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The parts of a running training, which `write` reads and `read` changes in place."""

    model: UnifiedModel
    optimiser: torch.optim.Optimizer
    sketch: CountMinSketch
    position: Position
    fingerprint: str

    def write(self, path: Path) -> None:
        """Replace the state at `path` at once; StoreError when it cannot be written."""
        position = self.position
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"optimiser.{name}": value for name, value in pack_optimiser(self.optimiser).items()}
        tensors |= {f"sketch.{name}": torch.from_numpy(value) for name, value in self.sketch.state().items()}
        tensors["generator"] = torch.get_rng_state()
        best = (position.best_score, position.best_step, position.best_recalls)
        facts = {"step": position.step, "stale": position.stale, "best": best, "fingerprint": self.fingerprint}
        write_state(path, tensors, facts)

    def read(self, path: Path) -> None:
        """Take over the state at `path`.

        DamagedData for a changed byte or another version; FailedPrecondition when it belongs to another training.
        """
        tensors, facts = read_state(path)
        if facts["fingerprint"] != self.fingerprint:
            raise FailedPrecondition(
                f"{path.parent} holds a training with other settings or data, at step {facts['step']}: remove it, or "
                "choose another work folder"
            )
        self.model.load_state_dict(_under(tensors, "model."))
        unpack_optimiser(self.optimiser, _under(tensors, "optimiser."))
        self.sketch.load({name: value.numpy() for name, value in _under(tensors, "sketch.").items()})
        torch.set_rng_state(tensors["generator"])
        self.position.step, self.position.stale = facts["step"], facts["stale"]
        self.position.best_score, self.position.best_step, self.position.best_recalls = facts["best"]


def fingerprint(settings: TrainSettings, data: TrainData) -> str:
    """SHA-256 of all that the weights follow from; how often to save or log may change on resuming."""
    shown = settings.model_dump(mode="json", exclude={"data": True, "run": {"save_every", "log_every", "threads"}})
    text = json.dumps(shown, sort_keys=True) + data.fingerprint()
    return hashlib.sha256(text.encode()).hexdigest()


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
