"""The training loop: steps, logs, validation, resumable states, and a checkpoint at the end.

A step is a function of the state and its number: data, hidden features and dropout all follow from (seed, step). So a
run that was killed continues from its last state as if nothing had happened, bit for bit on the same machine. Knows
nothing about where data comes from.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from retrieval.errors import BuildFailed, FailedPrecondition, InvalidArgument
from retrieval.towers.checkpoint import CheckpointConfig, read_checkpoint
from retrieval.towers.encoder import Encoder
from retrieval.towers.entity_parts import make_model
from retrieval.towers.pretrained import DEFAULT_ENCODER, load_default, load_named
from retrieval.towers.projection import fit_projection
from retrieval.training.config import Precision, RunSettings, TrainSettings, Tuning
from retrieval.training.data import Progress, read_data
from retrieval.training.export import entity_settings, export_checkpoint
from retrieval.training.inputs import InputMaker
from retrieval.training.losses import LossTerms
from retrieval.training.model import UnifiedModel
from retrieval.training.ranks import Ranks
from retrieval.training.sampler import Sampler, TaskBatch
from retrieval.training.state import pack_optimiser, read_state, unpack_optimiser, write_state
from retrieval.training.validate import Validator
from retrieval.types import F32

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
        encoder = _load_encoder(settings)
        self.data = read_data(settings, encoder, work=self.work, progress=progress)
        self._encoder = encoder
        self._inputs = InputMaker(settings, self.data, encoder, self._ranks)
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
        self.model = self._make_model().to(self._ranks.device)
        self._optimiser = _make_optimiser(self.model, run)
        self._validator = (
            Validator(self.data, self._inputs, run) if self.data.validation and run.validate_every else None
        )
        self._step = 0
        self._best: tuple[float, int, dict[str, float]] = (-1.0, 0, {})
        self._stale = 0

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
        while self._step < run.steps and not (run.patience and self._stale >= run.patience):
            self._one_step(module, started)
            done = self._step
            if self._validator is not None and (done % run.validate_every == 0 or done == run.steps):
                self._validate(self._validator)
            if done % run.save_every == 0 or done == run.steps:
                self._save()
            self._report("train", done, run.steps)
            if self._on_step is not None:
                self._on_step(done)
        return self._finish(Path(out), started)

    def _one_step(self, module: nn.Module, started: float) -> None:
        run, step = self.settings.run, self._step
        rate = _schedule(step, run)
        for group in self._optimiser.param_groups:
            group["lr"] = group["initial_lr"] * rate
        torch.manual_seed((run.seed << 32) + step * self._ranks.world + self._ranks.rank)
        batches = self._sampler.step(step)
        loss, terms = module(self._inputs.make(batches, step))
        shown = float(self._ranks.mean(loss))
        if not math.isfinite(shown):
            self._stop_at_bad_loss(shown, batches)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), run.gradient_limit)
        if not math.isfinite(float(norm)):
            self._stop_at_bad_loss(float(norm), batches)
        self._optimiser.step()
        self._step += 1
        if self._step % run.log_every == 0 or self._step == run.steps:
            self._log_step(shown, terms, float(norm), rate, time.monotonic() - started)

    def _validate(self, validator: Validator) -> None:
        self._report("validate", 0, 1)
        recalls = validator.recall(self.model)
        score = sum(recalls.values()) / len(recalls)
        self._report("validate", 1, 1)
        self._log({"step": self._step, "validation_recall@10": recalls})
        self._stale += 1
        if score > self._best[0]:
            self._best, self._stale = (score, self._step, recalls), 0
            if self._ranks.leads:
                write_state(self.work / BEST_FILE, self.model.state_dict(), {"step": self._step})

    def _finish(self, out: Path, started: float) -> TrainResult:
        if self._best[1] not in (0, self._step):
            tensors, facts = read_state(self.work / BEST_FILE)
            if facts["step"] != self._best[1]:
                raise FailedPrecondition(
                    f"{self.work / BEST_FILE} is of step {facts['step']}, the best step was {self._best[1]}: remove "
                    f"{self.work} and train again"
                )
            self.model.load_state_dict(tensors)
        self.model.eval()
        untrained = None
        if self.settings.query.tuning is Tuning.WHOLE and self.settings.entity.encoded is not None:
            untrained = _load_encoder(self.settings, max_tokens=self.settings.entity.encoded.max_tokens)
        provenance = {
            "encoder": self.settings.query.encoder or DEFAULT_ENCODER,
            "training": f"{self._step} steps, seed {self.settings.run.seed}, settings {self._fingerprint()[:16]}",
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
            steps=self._step,
            best_step=self._best[1] or self._step,
            validation=self._best[2],
            seconds=time.monotonic() - started,
        )

    def _make_model(self) -> UnifiedModel:
        settings, encoder = self.settings, self._encoder
        head = nn.Linear(encoder.hidden, settings.query.d, bias=False)
        entity = make_model(entity_settings(settings, self.data), self.data.vocabularies)
        projection = fit_projection(self._head_sample(), settings.query.d).weight
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(projection))
        if settings.entity.encoded is not None:  # both sides begin as the zero-shot encoder
            entity.start_from(settings.entity.encoded.feature, projection)
        whole = settings.query.tuning is Tuning.WHOLE
        if whole:
            _unfreeze(encoder.model, settings)
        return UnifiedModel(
            encoder=encoder.model if whole else None,
            head=head,
            entity=entity,
            loss=settings.loss,
            ranks=self._ranks,
            bfloat16=settings.run.precision is Precision.BFLOAT16,
        )

    def _head_sample(self) -> F32:
        """Unit states that the head's first weights are fitted on: of entities where encoded, else of queries."""
        encoded = self.settings.entity.encoded
        if encoded is not None:
            vectors = self.data.features.vectors[encoded.feature]
            return vectors[vectors.any(axis=1)][:20_000].astype("float32")
        if self.data.pooled is not None:
            return self.data.pooled[:20_000]
        return self._encoder.encode(self.data.queries[:4_096])

    def _resume(self) -> None:
        path = self.work / STATE_FILE
        if not path.is_file():
            if self._ranks.leads:
                self.work.mkdir(parents=True, exist_ok=True)
                (self.work / LOG_FILE).unlink(missing_ok=True)
            return
        tensors, facts = read_state(path)
        if facts["fingerprint"] != self._fingerprint():
            raise FailedPrecondition(
                f"{self.work} holds a training with other settings or data, at step {facts['step']}: remove it, or "
                "choose another work folder"
            )
        self.model.load_state_dict(_under(tensors, "model."))
        unpack_optimiser(self._optimiser, _under(tensors, "optimiser."))
        self._inputs.sketch.load({name: value.numpy() for name, value in _under(tensors, "sketch.").items()})
        torch.set_rng_state(tensors["generator"])
        self._step, self._stale = facts["step"], facts["stale"]
        self._best = (facts["best"][0], facts["best"][1], facts["best"][2])
        self._forget_log()

    def _save(self) -> None:
        if self._ranks.leads:
            tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
            tensors |= {f"optimiser.{name}": value for name, value in pack_optimiser(self._optimiser).items()}
            tensors |= {
                f"sketch.{name}": torch.from_numpy(value) for name, value in self._inputs.sketch.state().items()
            }
            tensors["generator"] = torch.get_rng_state()
            facts = {"step": self._step, "stale": self._stale, "best": self._best, "fingerprint": self._fingerprint()}
            write_state(self.work / STATE_FILE, tensors, facts)
        self._ranks.wait()

    def _fingerprint(self) -> str:
        """Of all that the weights follow from; how often to save or log, and how far to go, may change on resuming."""
        shown = self.settings.model_dump(
            mode="json", exclude={"data": True, "run": {"save_every", "log_every", "threads"}}
        )
        text = json.dumps(shown, sort_keys=True) + self.data.fingerprint()
        return hashlib.sha256(text.encode()).hexdigest()

    def _stop_at_bad_loss(self, value: float, batches: Mapping[str, TaskBatch]) -> None:
        path = self.work / f"bad-step-{self._step}.json"
        if self._ranks.leads:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self._readable(batches), ensure_ascii=False), encoding="utf-8")
        raise BuildFailed(
            f"training stopped at step {self._step}: the loss or its gradient is {value}; the batch is kept in {path}, "
            f"the last good state in {self.work}: lower the learning rates or look at that batch"
        )

    def _readable(self, batches: Mapping[str, TaskBatch]) -> dict[str, Any]:
        return {
            "step": self._step,
            "seed": self.settings.run.seed,
            "tasks": {
                name: {
                    "queries": [self.data.queries[number] for number in batch.queries],
                    "answers": batch.answers.tolist(),
                    "randoms": batch.randoms.tolist(),
                }
                for name, batch in batches.items()
            },
        }

    def _log_step(self, loss: float, terms: Mapping[str, LossTerms], norm: float, rate: float, seconds: float) -> None:
        self._log(
            {
                "step": self._step,
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

    def _log(self, line: Mapping[str, Any]) -> None:
        if self._ranks.leads:
            with (self.work / LOG_FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def _forget_log(self) -> None:
        """Drop the lines of steps after the state: they are about to be made again."""
        path = self.work / LOG_FILE
        if self._ranks.leads and path.is_file():
            whole = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
            path.write_text("".join(line for line in whole if json.loads(line)["step"] <= self._step), encoding="utf-8")


def _load_encoder(settings: TrainSettings, *, max_tokens: int | None = None) -> Encoder:
    tokens = max_tokens or settings.query.max_tokens
    name = settings.query.encoder
    return load_default(max_tokens=tokens) if name is None else load_named(name, max_tokens=tokens)


def _unfreeze(model: Any, settings: TrainSettings) -> None:
    model.requires_grad_(True)
    if not settings.query.word_embeddings:
        model.get_input_embeddings().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = settings.query.dropout


def _make_optimiser(model: UnifiedModel, run: RunSettings) -> torch.optim.Optimizer:
    groups: dict[str, list[nn.Parameter]] = {"heads": [], "tokens": [], "encoder": [], "temperature": []}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        kind = name.split(".")[0]
        group = kind if kind in groups else "tokens" if ".hashes." in name else "heads"
        groups[group].append(parameter)
    rates = {
        "heads": run.learning_rate,
        "tokens": run.learning_rate_tokens,
        "encoder": run.learning_rate_encoder,
        "temperature": run.learning_rate,
    }
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "initial_lr": rates[name],
                "weight_decay": 0.0 if name == "temperature" else run.weight_decay,
            }
            for name, parameters in groups.items()
            if parameters
        ],
        fused=True,
    )


def _schedule(step: int, run: RunSettings) -> float:
    """Linear warm-up, then linear decay to a hundredth."""
    if step < run.warmup_steps:
        return (step + 1) / (run.warmup_steps + 1)
    return max(0.01, 1 - (step - run.warmup_steps) / max(1, run.steps - run.warmup_steps))


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
