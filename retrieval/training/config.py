"""The configuration of a training: one TOML file, every field with its default, limits and meaning here.

    [data]          tables of entities and of pairs
    [entity]        which columns are features, and the size of the entity network
    [query]         encoder, frozen or fine-tuned
    [loss]          temperature, negatives, correction, prefixes
    [tasks.NAME]    what is asked and what answers, and its share of each step
    [run]           steps, batch sizes, learning rates, seeds, logs, early stopping

Paths are relative to the configuration file. Knows nothing about torch.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from retrieval.errors import InvalidArgument, InvalidParams
from retrieval.params import MAX_DIM, MIN_DIM
from retrieval.spaces import check_space_id
from retrieval.towers.entity_model import EntityModelSettings
from retrieval.towers.features import EncodedText, FeatureSettings
from retrieval.types import StrEnum

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Answer(StrEnum):
    """What answers the queries of a task."""

    ENTITY = "entity"  # an entity, through the entity tower
    QUERY = "query"  # another query, through the query tower
    FROZEN = "frozen"  # an entity, through its pre-existing embedding, which is not trained


class Tuning(StrEnum):
    """What of the query tower is trained."""

    HEAD = "head"  # the projection only; the encoder is frozen and runs once per distinct text
    WHOLE = "whole"  # the encoder too


class Precision(StrEnum):
    """Type of the encoder's matrix products while training."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class DataSettings(_Section):
    """Parquet tables; see `retrieval.training.tables` for their columns."""

    entities: tuple[Path, ...] = Field(min_length=1, description="tables of entities, one or several")
    pairs: Path = Field(description="pairs to train on")
    validation: Path | None = Field(default=None, description="pairs to validate on; needed for early stopping")
    never_queries: Path | None = Field(
        default=None, description="text file of queries, one a line, that no pair may have"
    )


class EntitySettings(_Section):
    """The entity tower."""

    features: FeatureSettings
    model: EntityModelSettings = Field(default_factory=lambda: EntityModelSettings())
    encoded: EncodedText | None = Field(
        default=None,
        description="one more vector feature, made of text columns by the query encoder as it was before training",
    )
    feature_dropout: float = Field(
        default=0.1, ge=0, lt=1, description="chance that a feature that is there is hidden in a step"
    )


class QuerySettings(_Section):
    """The query tower."""

    encoder: str | None = Field(default=None, description="hub name or local folder; the shipped default when absent")
    tuning: Tuning = Field(
        default=Tuning.HEAD, description="head trains the projection only, whole the transformer too"
    )
    word_embeddings: bool = Field(default=False, description="with tuning = whole: train the word embeddings too")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="with tuning = whole: of the encoder")
    max_tokens: int = Field(default=64, ge=4, le=8_192, description="tokens of a query that are read")
    d: int = Field(default=256, ge=MIN_DIM, le=MAX_DIM, description="dimensions of the space")


class LossSettings(_Section):
    """Sampled softmax."""

    temperature: float = Field(default=0.05, gt=0, description="to begin with; it is learned")
    temperature_low: float = Field(default=0.01, gt=0, description="it is kept at or above this")
    temperature_high: float = Field(default=0.5, gt=0, description="it is kept at or below this")
    in_batch_weight: float = Field(default=1.0, ge=0, description="of the term of in-batch negatives")
    random_weight: float = Field(default=1.0, ge=0, description="of the term of random negatives")
    correction: bool = Field(default=True, description="subtract the log probability with which candidates are sampled")
    sketch_width: int = Field(
        default=1 << 18, ge=16, le=1 << 26, description="counters in a row of the count-min sketch"
    )
    sketch_depth: int = Field(default=4, ge=1, le=16, description="rows of the count-min sketch")
    prefixes: tuple[int, ...] = Field(
        default=(16, 32, 64, 128, 256), min_length=1, description="ascending, the last one is d"
    )
    prefix_weights: tuple[float, ...] = Field(
        default=(0.1, 0.1, 0.15, 0.25, 1.0), min_length=1, description="of the loss on each prefix"
    )

    @model_validator(mode="after")
    def _consistent(self) -> LossSettings:
        if len(self.prefixes) != len(self.prefix_weights):
            raise ValueError(
                f"{len(self.prefixes)} prefixes have {len(self.prefix_weights)} weights: give one for each"
            )
        if list(self.prefixes) != sorted(set(self.prefixes)) or self.prefixes[0] < 1:
            raise ValueError(f"prefixes {list(self.prefixes)} have to ascend from 1 or more")
        if min(self.prefix_weights) < 0 or self.prefix_weights[-1] == 0:
            raise ValueError("prefix weights are 0 or more, and that of the whole embedding is above 0")
        if self.in_batch_weight == 0 and self.random_weight == 0:
            raise ValueError("both kinds of negatives have weight 0: there is nothing to learn from, raise one")
        return self


class TaskSettings(_Section):
    """One task: pairs whose `task` column has its name."""

    answer: Answer = Field(
        default=Answer.ENTITY, description="what answers: entity, query, or frozen (a pre-existing embedding)"
    )
    entity_type: str | None = Field(
        default=None, description="random negatives are drawn from entities of this type; None: of all"
    )
    share: float = Field(default=1.0, gt=0, description="of the rows of a step, relative to the other tasks")
    weight: float = Field(default=1.0, gt=0, description="of its loss")
    frozen_vector: str | None = Field(default=None, description="for answer = frozen: the vector column that answers")
    frozen_space: str | None = Field(
        default=None, description="for answer = frozen: space id of that column; it becomes compatible"
    )

    @model_validator(mode="after")
    def _frozen(self) -> TaskSettings:
        given = (self.frozen_vector is not None, self.frozen_space is not None)
        if self.answer is Answer.FROZEN and given != (True, True):
            raise ValueError("a task answered by frozen embeddings names frozen_vector and frozen_space")
        if self.answer is not Answer.FROZEN and any(given):
            raise ValueError(f"frozen_vector and frozen_space belong to answer = 'frozen', this task has {self.answer}")
        if self.frozen_space is not None:
            try:
                check_space_id(self.frozen_space)  # now, not when the trained checkpoint is written
            except InvalidArgument as error:
                raise ValueError(str(error)) from None
        return self


class RunSettings(_Section):
    """How long, how fast, and what is written when."""

    seed: int = Field(default=0, ge=0, le=2**31 - 1, description="of data order, negatives, first weights, dropout")
    steps: int = Field(default=1_000, ge=1, le=100_000_000, description="the schedule ends with the last")
    batch: int = Field(default=512, ge=2, le=1_048_576, description="pairs of a step, over all tasks and processes")
    random_negatives: int = Field(default=1_024, ge=0, le=1_048_576, description="of each task and step")
    learning_rate: float = Field(default=1e-3, gt=0, description="of heads and perceptron")
    learning_rate_tokens: float = Field(default=1e-3, gt=0, description="of hash embeddings")
    learning_rate_encoder: float = Field(default=5e-5, gt=0, description="of the transformer")
    weight_decay: float = Field(default=0.01, ge=0, description="of AdamW; the temperature has none")
    warmup_steps: int = Field(default=50, ge=0, description="in which the rates rise; then they fall to a hundredth")
    gradient_limit: float = Field(default=1.0, gt=0, description="norm to which gradients are cut")
    precision: Precision = Field(
        default=Precision.FLOAT32, description="of the transformer while it is trained: float32 or bfloat16"
    )
    save_every: int = Field(default=500, ge=1, description="steps between resumable states")
    log_every: int = Field(default=20, ge=1, description="steps between lines of the log")
    validate_every: int = Field(default=0, ge=0, description="steps between validations; 0 never validates")
    validation_queries: int = Field(default=1_000, ge=1, description="of each task, drawn once")
    validation_entities: int = Field(default=20_000, ge=1, description="searched in validation, the answers among them")
    patience: int = Field(
        default=0, ge=0, description="validations without a better recall@10 before stopping; 0 never stops early"
    )
    threads: int = Field(default=0, ge=0, description="of torch; 0 leaves its setting")


class TrainSettings(_Section):
    """All of it."""

    data: DataSettings
    entity: EntitySettings
    query: QuerySettings = Field(default_factory=lambda: QuerySettings())
    loss: LossSettings = Field(default_factory=lambda: LossSettings())
    tasks: dict[str, TaskSettings] = Field(min_length=1)
    run: RunSettings = Field(default_factory=lambda: RunSettings())

    @model_validator(mode="after")
    def _consistent(self) -> TrainSettings:
        if self.loss.prefixes[-1] != self.query.d:
            raise ValueError(
                f"the last prefix is {self.loss.prefixes[-1]}, the space has {self.query.d}: make them equal"
            )
        vectors = self.entity.features.vectors
        if self.entity.encoded is not None and self.entity.encoded.feature in (*vectors, *self.entity.features.texts):
            raise ValueError(
                f"feature {self.entity.encoded.feature!r} is named twice: give the encoded text its own name"
            )
        if self.run.batch < 2 * len(self.tasks):
            raise ValueError(f"batch = {self.run.batch} is too small for {len(self.tasks)} tasks: give each 2 pairs")
        if self.run.patience and not (self.run.validate_every and self.data.validation):
            raise ValueError("patience needs data.validation and run.validate_every: without them nothing is validated")
        if self.loss.in_batch_weight == 0 and self.run.random_negatives == 0:
            raise ValueError("random_negatives = 0 and in_batch_weight = 0 leave no negatives: raise one")
        return self


def read_config(path: Path, overrides: Mapping[str, Any] | None = None) -> TrainSettings:
    """Settings from a TOML file; relative data paths are resolved against its folder.

    overrides: dotted names to values, laid over the file ("run.steps": 10). InvalidParams names the first bad field,
    its value and what is acceptable; also for a file that is absent or not TOML.
    """
    try:
        body = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidParams(f"configuration {path} cannot be read ({error.strerror}): name a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidParams(f"configuration {path} is not TOML: {error}") from None
    for name, value in (overrides or {}).items():
        _set(body, name, value)
    settings = make_settings(body, where=str(path))
    folder = Path(path).resolve().parent
    data = settings.data
    resolved = data.model_copy(
        update={
            "entities": tuple(folder / entry for entry in data.entities),
            "pairs": folder / data.pairs,
            "validation": None if data.validation is None else folder / data.validation,
            "never_queries": None if data.never_queries is None else folder / data.never_queries,
        }
    )
    return settings.model_copy(update={"data": resolved})


def make_settings(body: Mapping[str, Any], *, where: str) -> TrainSettings:
    """Settings from nested values; InvalidParams names `where` and the first field that is wrong."""
    try:
        return TrainSettings(**body)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "the whole"
        if first["type"] == "extra_forbidden":
            raise InvalidParams(f"{where}: there is no setting {name!r}: see retrieval.training.config") from None
        if first["type"] == "missing":
            raise InvalidParams(f"{where}: setting {name!r} is missing: add it") from None
        message = first["msg"].removeprefix("Value error, ")
        shown = "" if first["type"] == "value_error" else f" = {first['input']!r} is not acceptable"
        raise InvalidParams(f"{where}: {name}{shown}: {message}") from None


def _set(body: dict[str, Any], name: str, value: Any) -> None:
    *path, last = name.split(".")
    for part in path:
        body = body.setdefault(part, {})
        if not isinstance(body, dict):
            raise InvalidParams(f"setting {name!r} cannot be laid over the file: {part!r} is a value, not a section")
    body[last] = value
