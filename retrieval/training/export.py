"""From a trained model to a checkpoint folder that the towers load. Knows nothing about how it was trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from retrieval.towers.checkpoint import CheckpointConfig, write_checkpoint
from retrieval.towers.encoder import Encoder
from retrieval.towers.entity_parts import EntityParts, EntityTowerSettings
from retrieval.towers.projection import Projection
from retrieval.training.config import TrainSettings, Tuning
from retrieval.training.data import TrainData
from retrieval.training.model import UnifiedModel


def entity_settings(settings: TrainSettings, data: TrainData) -> EntityTowerSettings:
    """Settings of the entity tower that a configuration and its data make."""
    encoded = settings.entity.encoded
    return EntityTowerSettings(
        d=settings.query.d,
        features=data.feature_settings,
        model=settings.entity.model,
        encoded=encoded,
        own_text_encoder=encoded is not None and settings.query.tuning is Tuning.WHOLE,
    )


def export_checkpoint(
    out: Path,
    model: UnifiedModel,
    settings: TrainSettings,
    data: TrainData,
    *,
    encoder: Encoder,
    untrained: Encoder | None,
    provenance: Mapping[str, str],
) -> CheckpointConfig:
    """Write the checkpoint of a trained model at `out`.

    encoder: with the trained weights where they are trained; untrained: what the encoded text is made with, where it is
    not `encoder`. Spaces whose frozen embeddings a task was trained against are listed as compatible.
    """
    tower = entity_settings(settings, data)
    parts = EntityParts(
        settings=tower,
        vocabularies=data.vocabularies,
        model=model.entity,
        text_encoder=untrained if tower.own_text_encoder else None,
    )
    weight = model.head.weight.detach().cpu().numpy().astype(np.float32)
    encoded = settings.entity.encoded
    return write_checkpoint(
        out,
        encoder=encoder,
        projection=Projection(np.ascontiguousarray(weight)),
        text_columns=settings.entity.features.texts if encoded is None else encoded.columns,
        compatible=sorted({task.frozen_space for task in settings.tasks.values() if task.frozen_space is not None}),
        provenance=provenance,
        more=parts.to_parts(),
    )
