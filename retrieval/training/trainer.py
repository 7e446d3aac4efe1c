"""The training loop: steps, validation, resumable states, and a checkpoint at the end.

A step is a function of the state and its number: data, hidden features and dropout all follow from (seed, step). So a
run that was killed continues from its last state as if nothing had happened, bit for bit on the same machine. Knows
nothing about where data comes from.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from retrieval.errors import BuildFailed, FailedPrecondition, InvalidArgument, StoreError
from retrieval.towers.checkpoint import CheckpointConfig, read_checkpoint
from retrieval.towers.pretrained import DEFAULT_ENCODER
from retrieval.training.config import TrainSettings, Tuning
from retrieval.training.data import Progress, read_data
from retrieval.training.export import export_checkpoint
from retrieval.training.inputs import InputMaker
from retrieval.training.journal import Journal
from retrieval.training.losses import LossTerms
from retrieval.training.optimiser import make_optimiser, set_rates
from retrieval.training.ranks import Ranks
from retrieval.training.replay import Replay, keep_batch, read_batch, replay_step
from retrieval.training.sampler import Sampler, TaskBatch
from retrieval.training.snapshot import Position, Snapshot, fingerprint
from retrieval.training.start import load_encoder, make_unified_model
from retrieval.training.state import read_state, write_state
from retrieval.training.validate import Validator

STATE_FILE, BEST_FILE, LOG_FILE = "state.bin", "best.bin", "log.jsonl"


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a training made. best_step: whose weights the checkpoint has; validation: its recall@10 by task."""

    config: CheckpointConfig
    steps: int
    best_step: int
    validation: dict[str, float]
    seconds: float


class Trainer:
    """One training in this process. Make it, then call `run`."""

    def __init__(
        self,
        settings: TrainSettings,
        *,
        work: Path,
        ranks: Ranks | None = None,
        progress: Progress | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> None:
        """work: folder of states and logs. on_step is told each finished step, after its state is on disk if saved."""
        self.settings, self.work = settings, Path(work)
        self._ranks = ranks or Ranks()
        self._report = progress or (lambda stage, done, total: None)
        self._on_step = on_step
        if settings.run.threads:
            torch.set_num_threads(settings.run.threads)
        torch.manual_seed(settings.run.seed)
        self._encoder = load_encoder(settings)
        with self._ranks.leader_first():  # the others find what it encoded in the work folder
            self.data = read_data(settings, self._encoder, work=self.work, progress=progress)
        self._inputs = InputMaker(settings, self.data, self._encoder, self._ranks)
        run = settings.run
        self._sampler = Sampler(
            self.data.pairs,
            shares={name: task.share for name, task in settings.tasks.items()},
            pools=self.data.pools,
            batch=run.batch,
            randoms=run.random_negatives,
            seed=run.seed,
            multiple=self._ranks.world,
        )
        self.model = make_unified_model(settings, self.data, self._encoder, self._ranks)
        self._optimiser = make_optimiser(self.model, run)
        self._validator = (
            Validator(self.data, self._inputs, run) if self.data.validation and run.validate_every else None
        )
        self._journal = Journal(self.work / LOG_FILE, leads=self._ranks.leads)
        self._at = Position()
        self._snapshot = Snapshot(
            model=self.model,
            optimiser=self._optimiser,
            sketch=self._inputs.sketch,
            position=self._at,
            fingerprint=fingerprint(settings, self.data),
        )

    def run(self, out: Path) -> TrainResult:
        """Train (or go on training) and write the checkpoint at `out`.

        InvalidArgument when `out` exists; FailedPrecondition when the work folder holds the state of another training;
        BuildFailed when a loss is not finite: the message names the step and the file that holds its batch.
        """
        if Path(out).exists():
            raise InvalidArgument(f"{out} exists already: remove it or choose another folder for the checkpoint")
        started = time.monotonic()
        self._resume()
        run = self.settings.run
        module: nn.Module = self.model
        if self._ranks.world > 1:
            module = DistributedDataParallel(self.model, find_unused_parameters=True)
        self.model.train()
        while self._at.step < run.steps and not (run.patience and self._at.stale >= run.patience):
            self._one_step(module, started)
            done = self._at.step
            if self._validator is not None and (done % run.validate_every == 0 or done == run.steps):
                self._validate(self._validator)
            if done % run.save_every == 0 or done == run.steps:
                self._save(self.work / STATE_FILE)
            self._report("train", done, run.steps)
            if self._on_step is not None:
                self._on_step(done)
        return self._finish(Path(out), started)

    def replay(self, path: Path) -> Replay:
        """Compute a step that stopped a training again, from the batch kept at `path` and the state kept beside it.

        Errors as `retrieval.training.replay.read_batch` and `Snapshot.read` tell. Nothing is written.
        """
        path = Path(path)
        step, batches = read_batch(path, settings=self.settings, data=self.data)
        self._snapshot.read(path.with_suffix(".bin"))
        self._seed_step(step)
        self.model.train()
        return replay_step(self.model, self._inputs, batches, step=step, data=self.data)

    def _seed_step(self, step: int) -> None:
        torch.manual_seed((self.settings.run.seed << 32) + step * self._ranks.world + self._ranks.rank)

    def _one_step(self, module: nn.Module, started: float) -> None:
        run, step = self.settings.run, self._at.step
        rate = set_rates(self._optimiser, step, run)
        self._seed_step(step)
        batches = self._sampler.step(step)
        loss, terms = module(self._inputs.make(batches, step))
        shown = float(self._ranks.mean(loss))
        if not math.isfinite(shown):
            self._stop_at_bad_loss(shown, batches)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), run.gradient_limit))
        if not math.isfinite(norm):
            self._stop_at_bad_loss(norm, batches)
        self._optimiser.step()
        self._at.step += 1
        if self._at.step % run.log_every == 0 or self._at.step == run.steps:
            self._log_step(shown, terms, norm, rate, time.monotonic() - started)

    def _validate(self, validator: Validator) -> None:
        self._report("validate", 0, 1)
        recalls = validator.recall(self.model)
        # one number for all processes: rounding on their devices must not make one stop while the others go on
        mean = self._ranks.mean(torch.tensor(list(recalls.values()), dtype=torch.float64, device=self._ranks.device))
        recalls = dict(zip(recalls, mean.tolist(), strict=True))
        score = sum(recalls.values()) / len(recalls)
        self._report("validate", 1, 1)
        self._journal.add({"step": self._at.step, "validation_recall@10": recalls})
        self._at.stale += 1
        if score > self._at.best_score:
            self._at.best_score, self._at.best_step, self._at.best_recalls = score, self._at.step, recalls
            self._at.stale = 0
            if self._ranks.leads:
                write_state(self.work / BEST_FILE, self.model.state_dict(), {"step": self._at.step})

    def _finish(self, out: Path, started: float) -> TrainResult:
        at = self._at
        if at.best_step not in (0, at.step):
            self._take_best()
        self.model.eval()
        untrained = None
        if self.settings.query.tuning is Tuning.WHOLE and self.settings.entity.encoded is not None:
            untrained = load_encoder(self.settings, max_tokens=self.settings.entity.encoded.max_tokens)
        provenance = {
            "encoder": self.settings.query.encoder or DEFAULT_ENCODER,
            "training": f"{at.step} steps, seed {self.settings.run.seed}, settings {self._snapshot.fingerprint[:16]}",
        }
        if self._ranks.leads:
            export_checkpoint(
                out,
                self.model,
                self.settings,
                self.data,
                encoder=self._encoder,
                untrained=untrained,
                provenance=provenance,
            )
        self._ranks.wait()
        config = read_checkpoint(out).config
        return TrainResult(
            config=config,
            steps=at.step,
            best_step=at.best_step or at.step,
            validation=at.best_recalls,
            seconds=time.monotonic() - started,
        )

    def _take_best(self) -> None:
        tensors, facts = read_state(self.work / BEST_FILE)
        if facts["step"] != self._at.best_step:
            raise FailedPrecondition(
                f"{self.work / BEST_FILE} is of step {facts['step']}, the best step was {self._at.best_step}: remove "
                f"{self.work} and train again"
            )
        self.model.load_state_dict(tensors)

    def _resume(self) -> None:
        path = self.work / STATE_FILE
        if not path.is_file():
            try:
                self._journal.begin()
            except OSError as error:
                raise StoreError(f"work folder {self.work} cannot be written: {error.strerror}") from error
            return
        self._snapshot.read(path)
        self._journal.forget_after(self._at.step)

    def _save(self, path: Path) -> None:
        if self._ranks.leads:
            self._snapshot.write(path)
        self._ranks.wait()

    def _stop_at_bad_loss(self, value: float, batches: Mapping[str, TaskBatch]) -> None:
        step = self._at.step
        path = self.work / f"bad-step-{step}.json"
        if self._ranks.leads:
            keep_batch(path, batches, step=step, value=value, settings=self.settings, data=self.data)
        self._save(path.with_suffix(".bin"))  # also waits: a process that ends early would end the one that writes
        raise BuildFailed(
            f"training stopped at step {step}: the loss or its gradient is {value}; the batch is kept in {path}, the "
            f"last good state in {self.work}: look at it with train --replay {path}, or lower the learning rates"
        )

    def _log_step(self, loss: float, terms: Mapping[str, LossTerms], norm: float, rate: float, seconds: float) -> None:
        self._journal.add(
            {
                "step": self._at.step,
                "loss": loss,
                "tasks": {
                    name: {"in_batch": float(t.in_batch), "random": float(t.random)} for name, t in terms.items()
                },
                "temperature": float(self.model.temperature().detach()),
                "gradient_norm": norm,
                "rate": rate,
                "seconds": round(seconds, 3),
            }
        )
