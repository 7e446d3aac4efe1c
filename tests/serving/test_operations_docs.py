"""What docs/operations.md names exists: settings, and the metrics of a server that has every part on."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel
from tiny_certificates import Authority
from tiny_store import make_store
from tiny_tower import make_tiny_checkpoint

from retrieval import client as rc
from retrieval.serving.config import ServingSettings, make_settings
from retrieval.serving.server import Server, open_engine
from retrieval.towers.query import QueryTower

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
# of parts that one process does not have: a broker's leaves, the parent of workers, recall that idle time measures
ELSEWHERE = {
    "retrieval_leaf_serving", "retrieval_workers", "retrieval_live_recall", "retrieval_live_recall_high",
    "retrieval_quarantined_info", "retrieval_canary_recall",  # a replay of canaries has to come first
}  # fmt: skip


def exists(name: str) -> bool:
    model: type[BaseModel] = ServingSettings
    for part in name.split("."):
        field = model.model_fields.get(part)
        if field is None:
            return False
        inner = field.annotation
        model = inner if isinstance(inner, type) and issubclass(inner, BaseModel) else ServingSettings
    return True


def test_the_settings_are_there() -> None:
    (table,) = re.findall(r"\| setting \|.*?\n\n", PAGE, re.DOTALL)
    names = [name for row in table.strip().splitlines()[2:] for name in re.findall(r"`([a-z_.]+)`", row.split("|")[1])]
    assert len(names) >= 9
    assert [name for name in names if not exists(name)] == []


def test_the_metrics_are_there(tmp_path: Path) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path / "checkpoint", d=16)
    make_store(tmp_path / "store", 30, 16, 1, space_id=QueryTower.load(checkpoint).space_id)
    pair = (authority := Authority(tmp_path)).issue("server")
    settings = make_settings(
        store=tmp_path / "store", checkpoint=checkpoint, port=0, metrics_port=0, torch_threads=1,
        tls_certificate=pair.certificate, tls_key=pair.key,
    )  # fmt: skip
    engine = open_engine(settings)
    server = Server(engine, settings)
    try:
        with rc.RetrievalClient(f"localhost:{server.start()}", tls=rc.Tls(ca=authority.file)) as client:
            client.search("chair", k=3)
        page = server.operations.metrics.page().decode()
        found = set(re.findall(r"^(?:# TYPE )?(retrieval_\w+)", page, re.MULTILINE))
        found |= {name.removesuffix("_bucket") for name in found}
    finally:
        server.stop(0).wait()
        server.operations.close()
        engine.close()
    told = set(re.findall(r"retrieval_[a-z_]*[a-z]", PAGE))
    # a name that ends in an ellipsis is the beginning of several
    missing = [name for name in told - ELSEWHERE if not any(each.startswith(name) for each in found)]
    assert missing == []
    assert {"retrieval_admission_refused", "retrieval_texts_cache_hits", "retrieval_certificate_seconds"} <= found
    # Prometheus' own rule: a family is there once
    heads = re.findall(r"^# TYPE (\w+)", page, re.MULTILINE)
    assert len(heads) == len(set(heads))
