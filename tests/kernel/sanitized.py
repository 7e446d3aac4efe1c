"""Lets a child process take the native module from another build."""

from __future__ import annotations

import importlib.util
import sys


def use_native(file: str) -> None:
    """Make `retrieval.kernel._native` the module in `file`; "" keeps the installed one."""
    if not file:
        return
    spec = importlib.util.spec_from_file_location("retrieval.kernel._native", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
