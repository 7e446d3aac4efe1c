"""Whether a server could start with these settings, without loading an index: `retrieval serve --check-config`.

Reads manifests, the checkpoint's description, certificates and tokens. It verifies no checksum and opens no shard;
a start does.
"""

from __future__ import annotations

import time

from retrieval.errors import NoGeneration, SpaceMismatch
from retrieval.serving.config import ServingSettings
from retrieval.serving.fleet.access import describe
from retrieval.serving.operate.auth import read_callers
from retrieval.serving.operate.credentials import read_tls
from retrieval.serving.swap.origin import Origin
from retrieval.serving.text.path import check_files


def check(settings: ServingSettings) -> list[str]:
    """What was found, a sentence each; raises the error that the start would raise."""
    found: list[str] = []
    spaces = {} if settings.role == "broker" else _check_store(settings, found)
    if settings.role == "broker":
        found.append(f"broker of the leaves {settings.shards}: they are asked at the start, not here")
        found.append(describe(settings))
    if settings.checkpoint is not None:
        from retrieval.towers.checkpoint import read_checkpoint

        config = read_checkpoint(settings.checkpoint).config
        known = {config.space_id, *config.compatible}
        if spaces and not known & set(spaces.values()):
            named = ", ".join(f"{name} of space {space}" for name, space in spaces.items())
            raise SpaceMismatch(
                f"the checkpoint's space {config.space_id} fits nothing that is published ({named}): serve the "
                "checkpoint the store was embedded with, or embed and build again"
            )
        found.append(f"checkpoint {settings.checkpoint}: space {config.space_id}")
        found.extend(check_files(settings.encode))
    if settings.tls_certificate is not None and settings.tls_key is not None:
        files = read_tls(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
        day = time.strftime("%Y-%m-%d", time.gmtime(files.expires))
        callers = "callers must show a certificate" if files.client_ca else "callers need no certificate"
        found.append(f"certificate {settings.tls_certificate}: valid until {day}, {callers}")
    if settings.tokens is not None:
        found.append(f"tokens {settings.tokens}: {', '.join(read_callers(settings.tokens))}")
    return found


def _check_store(settings: ServingSettings, found: list[str]) -> dict[str, str]:
    store = Origin(settings).published
    spaces: dict[str, str] = {}
    for entity_type in store.entity_types():
        try:
            manifest = store.manifest(entity_type, store.current(entity_type))
        except NoGeneration:
            continue
        spaces[entity_type] = manifest.space_id
        found.append(f"{entity_type}: generation {manifest.id}, {manifest.rows:,} rows, space {manifest.space_id}")
    if not spaces:
        raise NoGeneration(f"nothing is published in {settings.store}: build a generation into it first")
    return spaces
