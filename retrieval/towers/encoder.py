"""A transformer encoder: texts in, mean-pooled token states out, float32, the same whatever a text is batched with.

Works with any encoder that Hugging Face `transformers` can build from a configuration and that has a fast tokenizer.
Texts are sorted by length so that a batch holds little padding. Knows nothing about where weights come from, about
projections or about normalisation of text.
"""

from __future__ import annotations

import inspect
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import numpy as np
import safetensors.torch
import torch
import transformers
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers.utils import logging as transformers_logging

from retrieval.errors import DamagedData, InvalidParams
from retrieval.towers.packed_bert import PackedBert, can_pack, cpu_has_bfloat16
from retrieval.types import F32, StrEnum

CONFIG_PART, WEIGHTS_PART, TOKENIZER_PART = "config.json", "model.safetensors", "tokenizer.json"
MIN_TOKENS, MAX_TOKENS = 4, 8_192

MIN_COSINE = 0.99  # to the float32 output: what bfloat16 has to keep on the texts below
_CHECK_TEXTS = ("red shoes", "cordless drill 18v", "oil painting of a harbour at night", "usb c cable 2 m")

_WINDOW_TEXTS = 4_096  # tokenised and sorted by length at a time: bounds memory
_BATCH_TOKENS = 2_048  # padded tokens of one forward pass: larger ones leave the CPU's caches
_BATCH_TEXTS = 64
# in a configuration but not of the model: they would change the space id from one library version to the next
_VOLATILE_CONFIG = ("transformers_version", "_name_or_path", "torch_dtype", "dtype", "_attn_implementation_autoset")


class Precision(StrEnum):
    """What the forward pass computes in; `auto` is bfloat16 where the CPU has it and it passes the check."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Encoder:
    """A frozen encoder. `encode` keeps no state, so any number of threads may call it."""

    def __init__(self, model: Any, tokenizer_json: str, *, max_tokens: int) -> None:
        """model: a transformers encoder; tokenizer_json: its fast tokenizer.

        InvalidParams for a max_tokens that the model has no positions for.
        """
        self.model = model.float().eval().requires_grad_(False)
        if getattr(model, "pooler", None) is not None:
            model.pooler = None  # its output is not used, its weights would only add to the checkpoint
        self.hidden = int(model.config.hidden_size)
        self.max_tokens = max_tokens
        limit = _position_limit(model.config)
        if not MIN_TOKENS <= max_tokens <= limit:
            raise InvalidParams(
                f"max_tokens = {max_tokens} is not acceptable: this encoder takes {MIN_TOKENS} to {limit}"
            )
        self._packed: PackedBert | None = None
        self._tokenizer_json = tokenizer_json
        try:
            self._tokenizer = Tokenizer.from_str(tokenizer_json)
        except Exception as error:  # the library raises nothing narrower
            raise DamagedData(f"the encoder of this checkpoint cannot be read: its tokenizer: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        self.pad_id = int(getattr(model.config, "pad_token_id", None) or 0)

    @classmethod
    def from_parts(cls, parts: dict[str, bytes], *, max_tokens: int) -> Encoder:
        """The encoder of the parts that `parts()` gave; DamagedData when they do not make one."""
        try:
            settings = json.loads(parts[CONFIG_PART])
            state = safetensors.torch.load(parts[WEIGHTS_PART])
            config = transformers.AutoConfig.for_model(**settings)
            model = _build(config, state)
            return cls(model, parts[TOKENIZER_PART].decode(), max_tokens=max_tokens)
        except (ValueError, KeyError, SafetensorError) as error:
            raise DamagedData(f"the encoder of this checkpoint cannot be read: {error}") from error

    def reading(self, max_tokens: int) -> Encoder:
        """This encoder, its weights shared, reading another number of tokens; InvalidParams as for a new one."""
        return Encoder(self.model, self._tokenizer_json, max_tokens=max_tokens)

    def computing_in(self, precision: Precision | str) -> Encoder:
        """This encoder with its forward pass in `precision`, for serving: weights as they are now, not trained on.

        bfloat16 gives one text alone and in a batch the same vector to a cosine of 0.9999. InvalidParams for an
        unknown precision, or for bfloat16 of an encoder that is not a plain BERT or that falls below MIN_COSINE;
        `auto` keeps float32 there, and on a CPU without bfloat16.
        """
        if precision not in tuple(Precision):
            raise InvalidParams(f"precision = {precision!r} is not acceptable: choose {', '.join(Precision)}")
        if precision == Precision.FLOAT32 or (precision == Precision.AUTO and not cpu_has_bfloat16()):
            return self.reading(self.max_tokens)
        fast = self.reading(self.max_tokens)
        if can_pack(self.model):
            fast._packed = PackedBert(self.model)
            cosine = _least_cosine(self.reading(self.max_tokens).encode(_CHECK_TEXTS), fast.encode(_CHECK_TEXTS))
            if cosine >= MIN_COSINE:
                return fast
            reason = f"its vectors have a cosine of {cosine:.4f} to float32, the limit is {MIN_COSINE}"
        else:
            reason = f"it is of type {self.model.config.model_type}, not a plain BERT"
        if precision == Precision.BFLOAT16:
            raise InvalidParams(f"this encoder cannot compute in bfloat16 ({reason}): choose float32 or auto")
        return self.reading(self.max_tokens)

    @property
    def precision(self) -> Precision:
        """What the forward pass computes in: float32 or bfloat16."""
        return Precision.FLOAT32 if self._packed is None else Precision.BFLOAT16

    def parts(self) -> dict[str, bytes]:
        """Configuration, weights and tokenizer as bytes that depend on content only."""
        settings = {
            name: value
            for name, value in json.loads(self.model.config.to_json_string(use_diff=True)).items()
            if name not in _VOLATILE_CONFIG
        }
        state = {name: tensor.contiguous() for name, tensor in self.model.state_dict().items()}
        return {
            CONFIG_PART: json.dumps(settings, indent=1, sort_keys=True).encode(),
            WEIGHTS_PART: safetensors.torch.save(state),
            TOKENIZER_PART: self._tokenizer_json.encode(),
        }

    def encode(
        self, texts: Sequence[str], *, threads: int | None = None, on_batch: Callable[[int], None] | None = None
    ) -> F32:
        """Pooled states float32 [n, hidden] of n texts; only the first `max_tokens` tokens of each are read.

        threads: for this call; None takes as many as torch is set to. One text or a few have their matrix products
        split over the threads; of many, each thread encodes batches of its own, which on shared cores is much faster
        than threads that wait for each other in every product. on_batch is told how many texts each forward pass has
        finished, from one thread at a time.
        """
        out = np.empty((len(texts), self.hidden), dtype=np.float32)
        threads = threads or torch.get_num_threads()
        if len(texts) <= _BATCH_TEXTS or threads == 1:
            for rows, tokens in self._work(texts):
                out[rows] = self._pool(tokens, threads)
                if on_batch is not None:
                    on_batch(len(rows))
            return out
        with ThreadPoolExecutor(threads, thread_name_prefix="encode") as pool:
            work = self._work(texts)
            running: dict[Future[F32], list[int]] = {}
            exhausted = False
            while running or not exhausted:
                # a few batches ahead of the threads, so that none waits and memory stays bounded
                for rows, tokens in itertools.islice(work, 2 * threads - len(running)):
                    running[pool.submit(self._pool, tokens, 1)] = rows
                exhausted = not running
                for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
                    rows = running.pop(future)
                    out[rows] = future.result()
                    if on_batch is not None:
                        on_batch(len(rows))
        return out

    def _work(self, texts: Sequence[str]) -> Iterator[tuple[list[int], list[list[int]]]]:
        """Batches of similar length: their rows in `texts`, and their tokens."""
        for start in range(0, len(texts), _WINDOW_TEXTS):
            tokens = self.tokenise(texts[start : start + _WINDOW_TEXTS])
            for rows in _batches([len(ids) for ids in tokens]):
                yield [start + row for row in rows], [tokens[row] for row in rows]

    def tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included, cut to max_tokens."""
        if len(texts) == 1:
            encodings = [self._tokenizer.encode(texts[0])]  # without the batch's thread pool
        else:
            encodings = self._tokenizer.encode_batch_fast(list(texts))
        return [encoding.ids or [self.pad_id] for encoding in encodings]

    def _pool(self, tokens: list[list[int]], threads: int) -> F32:
        with torch_threads(threads), torch.inference_mode():
            return np.asarray(self._mean(tokens).numpy(), dtype=np.float32)

    def _mean(self, tokens: list[list[int]]) -> torch.Tensor:
        if self._packed is not None:
            return self._packed(tokens)
        longest = max(len(ids) for ids in tokens)
        if all(len(ids) == longest for ids in tokens):
            states = self.model(input_ids=torch.tensor(tokens)).last_hidden_state
            return torch.as_tensor(states.mean(dim=1))
        input_ids = torch.tensor([ids + [self.pad_id] * (longest - len(ids)) for ids in tokens])
        lengths = torch.tensor([[len(ids)] for ids in tokens])
        mask = torch.arange(longest)[None, :] < lengths
        states = self.model(input_ids=input_ids, attention_mask=mask.long()).last_hidden_state
        return torch.as_tensor((states * mask[:, :, None]).sum(dim=1) / lengths)


def _least_cosine(a: F32, b: F32) -> float:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    least = float(((a * b).sum(axis=1) / np.maximum(norms, 1e-12)).min())
    return least if np.isfinite(least) else -1.0


def _position_limit(config: Any) -> int:
    positions = int(getattr(config, "max_position_embeddings", MAX_TOKENS))
    if config.model_type in {"roberta", "xlm-roberta", "camembert"}:
        positions -= int(config.pad_token_id) + 1  # they count positions from the padding id on
    return min(positions, MAX_TOKENS)


def _build(config: Any, state: dict[str, torch.Tensor]) -> Any:
    model_class = transformers.MODEL_MAPPING[type(config)]
    takes_pooling = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    arguments = {"add_pooling_layer": False} if takes_pooling else {}
    state = {name: tensor for name, tensor in state.items() if not name.startswith("pooler.")}
    with no_progress_bar():
        model, report = model_class.from_pretrained(
            None, config=config, state_dict=state, output_loading_info=True, **arguments
        )
    if report["missing_keys"]:
        raise DamagedData(f"the encoder's weights lack {', '.join(sorted(report['missing_keys'])[:3])}")
    return model


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Loading weights without a bar of the library's own."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Torch with so many threads in this thread; None leaves its setting."""
    # torch keeps the number per calling thread (OpenMP and MKL both do); it is put back for the caller's other work
    before = torch.get_num_threads()
    if threads is None or threads == before:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Rows grouped by length, longest first (so that memory is claimed once), within the limits of one pass."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    start = 0
    while start < len(order):
        size = max(1, min(_BATCH_TEXTS, _BATCH_TOKENS // lengths[order[start]]))
        yield order[start : start + size]
        start += size
