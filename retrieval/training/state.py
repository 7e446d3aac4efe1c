"""A resumable state in one file: model, optimiser, sketch, generators and position, complete or not there at all.

The file is 64 hexadecimal digits of SHA-256, a line feed, and safetensors with everything that is not a tensor as JSON
in its metadata. It is written beside its place, fsynced and renamed, so that a kill at any moment leaves the previous
state. Knows nothing about what the tensors mean.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from retrieval.errors import DamagedData, StoreError

FORMAT = "retrieval-training-state"
VERSION = 1

_DIGEST_BYTES = 65  # 64 digits and a line feed


def write_state(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write a state at `path`, replacing the previous one at once; StoreError when that is not possible.

    facts: anything that JSON can hold.
    """
    meta = {"format": FORMAT, "version": str(VERSION), "facts": json.dumps(dict(facts), sort_keys=True)}
    body = safetensors.torch.save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, meta)
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(hashlib.sha256(body).hexdigest().encode() + b"\n")
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StoreError(f"cannot write training state {path}: {error.strerror}") from error


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a state; DamagedData when a byte has changed or the version is another."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StoreError(f"cannot read training state {path}: {error.strerror}") from error
    body = data[_DIGEST_BYTES:]
    if hashlib.sha256(body).hexdigest().encode() + b"\n" != data[:_DIGEST_BYTES]:
        raise DamagedData(f"training state {path} does not match its SHA-256: remove it to start again")
    try:
        tensors = safetensors.torch.load(body)
        length = int.from_bytes(body[:8], "little")
        meta = json.loads(body[8 : 8 + length])["__metadata__"]
    except (SafetensorError, KeyError, ValueError) as error:
        raise DamagedData(f"training state {path} cannot be read ({error}): remove it to start again") from None
    if (meta.get("format"), meta.get("version")) != (FORMAT, str(VERSION)):
        raise DamagedData(
            f"training state {path} is {meta.get('format')} version {meta.get('version')}, this program reads version "
            f"{VERSION}: finish with the program that wrote it, or remove it to start again"
        )
    return tensors, json.loads(meta["facts"])


def pack_optimiser(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of an optimiser whose entries are tensors, under flat names."""
    return {
        f"{number}.{name}": torch.as_tensor(value)
        for number, entry in optimiser.state_dict()["state"].items()
        for name, value in entry.items()
    }


def unpack_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimiser the state that `pack_optimiser` took."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, _, entry = name.partition(".")
        state.setdefault(int(number), {})[entry] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
