"""The trained entity tower as named parts of a checkpoint, and back.

    entity/settings.json             features, sizes, version of the tokenisation
    entity/vocabulary.safetensors    kept tokens (uint64 hashes, place = id) of each way of cutting
    entity/weights.safetensors       weights of the network
    text_encoder/…                   the encoder that makes the encoded-text feature, where it is not the query encoder

Knows nothing about files: bytes in, bytes out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import safetensors.numpy
import safetensors.torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError

from retrieval.errors import DamagedData
from retrieval.towers.encoder import Encoder
from retrieval.towers.entity_model import EntityModel, EntityModelSettings
from retrieval.towers.features import EncodedText, FeatureSettings
from retrieval.towers.tokenise import TOKENISATION, Tokenisation
from retrieval.towers.vocabulary import Vocabulary

SETTINGS_PART = "entity/settings.json"
VOCABULARY_PART = "entity/vocabulary.safetensors"
WEIGHTS_PART = "entity/weights.safetensors"
TEXT_ENCODER_FOLDER = "text_encoder"
VERSION = 1


class EntityTowerSettings(BaseModel):
    """Contents of entity/settings.json. features: with the encoded text among the vectors; d: of the space."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    tokenisation: str = TOKENISATION
    d: int
    features: FeatureSettings
    model: EntityModelSettings
    encoded: EncodedText | None = None
    own_text_encoder: bool = False


@dataclass(frozen=True, kw_only=True)
class EntityParts:
    """A trained entity tower. text_encoder: of the encoded text, None where there is none or the query encoder does."""

    settings: EntityTowerSettings
    vocabularies: Mapping[Tokenisation, Vocabulary]
    model: EntityModel
    text_encoder: Encoder | None = None

    def to_parts(self) -> dict[str, bytes]:
        """Bytes by part name, the same for equal content."""
        state = {name: value.detach().cpu().contiguous() for name, value in self.model.state_dict().items()}
        tokens = {str(cut): known.tokens for cut, known in self.vocabularies.items()}
        settings = self.settings.model_dump(mode="json")
        parts = {
            SETTINGS_PART: json.dumps(settings, indent=1, sort_keys=True, ensure_ascii=False).encode(),
            VOCABULARY_PART: bytes(safetensors.numpy.save(tokens)),
            WEIGHTS_PART: safetensors.torch.save(state),
        }
        if self.text_encoder is not None:
            parts.update({f"{TEXT_ENCODER_FOLDER}/{name}": data for name, data in self.text_encoder.parts().items()})
        return parts

    @classmethod
    def from_parts(cls, parts: Mapping[str, bytes]) -> EntityParts | None:
        """The entity tower among the parts of a checkpoint, or None where the query encoder embeds entities too.

        DamagedData when the parts do not make one or are of another version.
        """
        if SETTINGS_PART not in parts:
            return None
        settings = _settings(parts[SETTINGS_PART])
        try:
            tokens = safetensors.numpy.load(parts[VOCABULARY_PART])
            vocabularies = {
                cut: Vocabulary(tokens[str(cut)], oov_ids=settings.model.oov_ids)
                for cut in settings.model.tokenisations
            }
            model = make_model(settings, vocabularies)
            model.load_state_dict(safetensors.torch.load(parts[WEIGHTS_PART]))
        except (SafetensorError, KeyError, RuntimeError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise DamagedData(
                f"the entity tower of this checkpoint cannot be read ({reason}): train it again"
            ) from error
        text_encoder = None
        if settings.own_text_encoder:
            assert settings.encoded is not None
            prefix = TEXT_ENCODER_FOLDER + "/"
            found = {name.removeprefix(prefix): data for name, data in parts.items() if name.startswith(prefix)}
            text_encoder = Encoder.from_parts(found, max_tokens=settings.encoded.max_tokens)
        return cls(settings=settings, vocabularies=vocabularies, model=model, text_encoder=text_encoder)


def make_model(settings: EntityTowerSettings, vocabularies: Mapping[Tokenisation, Vocabulary]) -> EntityModel:
    """An untrained network of these settings."""
    return EntityModel(
        settings.model,
        d=settings.d,
        texts=len(settings.features.texts),
        vectors=settings.features.vectors,
        ids={cut: known.ids_count for cut, known in vocabularies.items()},
    )


def _settings(data: bytes) -> EntityTowerSettings:
    try:
        body = json.loads(data)
        stated = (body.get("version"), body.get("tokenisation"))
        if stated != (VERSION, TOKENISATION):
            raise DamagedData(
                f"the entity tower is of version {stated[0]} with vocabulary {stated[1]}, this program reads version "
                f"{VERSION} with {TOKENISATION}: train it again, or use the program that made it"
            )
        return EntityTowerSettings(**body)
    except (ValueError, AttributeError, ValidationError) as error:
        raise DamagedData(f"{SETTINGS_PART} cannot be read ({str(error).splitlines()[0]}): train it again") from None


def unit(states: np.typing.NDArray[np.float32]) -> np.typing.NDArray[np.float32]:
    """Rows at unit length, zero rows left zero: how an encoded text enters the network."""
    norms = np.linalg.norm(states, axis=1, keepdims=True)
    return np.asarray(states / np.maximum(norms, 1e-12), dtype=np.float32)
