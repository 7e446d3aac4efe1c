"""What a training starts from: the pretrained encoder, and the first weights of both towers.

The head begins as the projection that loses least of the encoder's states; where entities bring their encoded text,
that feature goes through the same projection, so that step 0 is the zero-shot encoder. Knows nothing about steps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from retrieval.towers.encoder import Encoder
from retrieval.towers.entity_parts import make_model
from retrieval.towers.pretrained import load_default, load_named
from retrieval.towers.projection import fit_projection
from retrieval.training.config import Precision, TrainSettings, Tuning
from retrieval.training.data import TrainData
from retrieval.training.export import entity_settings
from retrieval.training.model import UnifiedModel
from retrieval.training.ranks import Ranks
from retrieval.types import F32

_SAMPLE_ENTITIES, _SAMPLE_QUERIES = 20_000, 4_096  # that the head's first weights are fitted on


def load_encoder(settings: TrainSettings, *, max_tokens: int | None = None) -> Encoder:
    """The encoder that the settings name, as it was before training; errors as `retrieval.towers.pretrained` tells."""
    tokens = max_tokens or settings.query.max_tokens
    name = settings.query.encoder
    return load_default(max_tokens=tokens) if name is None else load_named(name, max_tokens=tokens)


def make_unified_model(settings: TrainSettings, data: TrainData, encoder: Encoder, ranks: Ranks) -> UnifiedModel:
    """Both towers with their first weights, on the device of this process.

    Where the encoder is trained, its own weights are the model's: `encoder` follows the training.
    """
    head = nn.Linear(encoder.hidden, settings.query.d, bias=False)
    entity = make_model(entity_settings(settings, data), data.vocabularies)
    projection = fit_projection(_head_sample(settings, data, encoder), settings.query.d).weight
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(projection))
    if settings.entity.encoded is not None:  # both sides begin as the zero-shot encoder
        entity.start_from(settings.entity.encoded.feature, projection)
    whole = settings.query.tuning is Tuning.WHOLE
    if whole:
        _unfreeze(encoder.model, settings)
    model = UnifiedModel(
        encoder=encoder.model if whole else None,
        head=head,
        entity=entity,
        loss=settings.loss,
        ranks=ranks,
        bfloat16=settings.run.precision is Precision.BFLOAT16,
    )
    return model.to(ranks.device)


def _head_sample(settings: TrainSettings, data: TrainData, encoder: Encoder) -> F32:
    """Unit states that the head's first weights are fitted on: of entities where encoded, else of queries."""
    encoded = settings.entity.encoded
    if encoded is not None:
        vectors = data.features.vectors[encoded.feature]
        return vectors[vectors.any(axis=1)][:_SAMPLE_ENTITIES].astype("float32")
    if data.pooled is not None:
        return data.pooled[:_SAMPLE_ENTITIES]
    return encoder.encode(data.queries[:_SAMPLE_QUERIES])


def _unfreeze(model: Any, settings: TrainSettings) -> None:
    model.requires_grad_(True)
    if not settings.query.word_embeddings:
        model.get_input_embeddings().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = settings.query.dropout
