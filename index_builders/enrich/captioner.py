"""A generative captioner: any Hugging Face model that writes a text about an image, by hub name or local folder.

Vision-encoder-decoders, BLIP and GIT alike take pixel values alone and are decoded greedily, so that the same images in
the same batches give the same captions. The source of a caption is the model's name with a hash of its weights. Models
that need a prompt with image marks are refused. Knows nothing about files of images or about entities.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoImageProcessor, AutoTokenizer
from transformers.utils import logging as transformers_logging

from retrieval.errors import InvalidData, MissingDependency
from retrieval.towers.encoder import no_progress_bar
from retrieval.towers.text import normalise_text

_SEED = 0
_PROBE_SIZE = 32  # pixels each side of the image that a model is tried on


class Captioner:
    """An image-to-text model in evaluation mode, on a GPU where there is one.

    name: as given, of a local folder its last part; weights_sha256: of all weights, by name; digest: of all that
    shapes captions (weights, tokenizer, image processor, generation settings).
    """

    def __init__(self, name: str, model: Any, images: Any, tokenizer: Any) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.name = Path(name).resolve().name if Path(name).is_dir() else name
        self._model = model.eval().to(device)
        self._device = device
        self._images = images
        self._tokenizer = tokenizer
        self.weights_sha256 = _hash_weights(model)
        self.digest = self._hash_all()

    @property
    def source(self) -> str:
        """What provenance names: the model, @, the first 12 digits of its weights' SHA-256."""
        return f"{self.name}@{self.weights_sha256[:12]}"

    def caption(self, images: Sequence[Any], *, max_tokens: int) -> list[str]:
        """Normalised caption of each RGB Pillow image, at most `max_tokens` new tokens; "" where nothing was written.

        The images are one batch, n images give n captions.
        """
        if not images:
            return []
        pixels = self._images(images=list(images), return_tensors="pt")["pixel_values"]
        with torch.inference_mode(), torch.random.fork_rng(), _quiet():
            torch.manual_seed(_SEED)
            tokens = self._model.generate(
                pixel_values=pixels.to(self._device, self._model.dtype),
                max_new_tokens=max_tokens,
                do_sample=False,
                num_beams=1,
            )
        texts = self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [normalise_text(text) for text in texts]

    def _hash_all(self) -> str:
        generation = self._model.generation_config.to_dict()
        generation.pop("transformers_version", None)  # another version of the library is no other captioner
        images = self._images.to_dict()
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        tokenizer = backend.to_str() if backend is not None else sorted(self._tokenizer.get_vocab().items())
        parts = [self.weights_sha256, generation, images, tokenizer]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def load_captioner(name: str) -> Captioner:
    """The captioner with hub name or local folder `name`.

    MissingDependency when it can be neither found nor downloaded, or Pillow is not installed; InvalidData when it is no
    model that writes a text about an image alone.
    """
    try:
        from PIL import Image
    except ImportError:
        raise MissingDependency("captions need Pillow: run pip install 'retrieval[captions]'") from None
    # the class has had two names; the older one goes with transformers 5
    auto = getattr(transformers, "AutoModelForImageTextToText", None) or transformers.AutoModelForVision2Seq
    with _quiet(), no_progress_bar():
        try:
            with _hub_quiet():
                transformers.AutoConfig.from_pretrained(name)
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            raise MissingDependency(
                f"captioner {name!r} cannot be loaded ({_first_line(error)}): give a local folder, or download it "
                "where the hub is reachable"
            ) from error
        try:
            model = auto.from_pretrained(name)
            images = AutoImageProcessor.from_pretrained(name, **_pillow_only())
            tokenizer = AutoTokenizer.from_pretrained(name)
            captioner = Captioner(name, model, images, tokenizer)
            # only a trial tells whether a model needs a prompt beside the image
            captioner.caption([Image.new("RGB", (_PROBE_SIZE, _PROBE_SIZE))], max_tokens=2)
        except Exception as error:  # whatever a model of another kind fails with
            raise InvalidData(
                f"model {name!r} writes no text about an image alone ({_first_line(error)}): give a captioner such as "
                "a vision-encoder-decoder, BLIP or GIT, with its image processor and tokenizer"
            ) from error
    return captioner


def _pillow_only() -> dict[str, Any]:
    # resizing differs between the two backends; one of them keeps captions the same on every machine
    return {"use_fast": False} if int(transformers.__version__.split(".")[0]) < 5 else {"backend": "pil"}


def _hash_weights(model: Any) -> str:
    digest = hashlib.sha256()
    for name, weights in sorted(model.state_dict().items()):
        digest.update(f"{name} {weights.dtype} {tuple(weights.shape)};".encode())
        digest.update(weights.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def _quiet() -> Iterator[None]:
    shown = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # unused heads and length settings of a checkpoint are no news here
    try:
        yield
    finally:
        transformers_logging.set_verbosity(shown)


@contextmanager
def _hub_quiet() -> Iterator[None]:
    logger = logging.getLogger("huggingface_hub")
    shown = logger.level
    logger.setLevel(logging.ERROR)  # the failed tries end in one sentence
    try:
        yield
    finally:
        logger.setLevel(shown)


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".:")[:200] if text else type(error).__name__
