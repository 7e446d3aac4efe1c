"""The deployment files: Kubernetes' schemas accept them, and what they say of each other and of settings is true."""

from __future__ import annotations

import configparser
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from retrieval.serving.config import ServingSettings
from retrieval.serving.operate.settings_file import read_settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
VERSION = "1.31"  # the oldest whose pods know their index and whose hooks can sleep


def documents(path: Path) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


ALL = [(path.name, each) for path in FILES for each in documents(path)]


@pytest.mark.parametrize(("name", "document"), ALL, ids=[f"{d['kind']}-{d['metadata']['name']}" for _, d in ALL])
def test_the_schema_accepts(name: str, document: dict[str, Any]) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="of the extra `dev`").validate
    validate(document, VERSION, strict=True)


def test_the_schema_check_finds_a_wrong_field() -> None:
    checker = pytest.importorskip("kubernetes_validate", reason="of the extra `dev`")
    broken = next(each for _, each in ALL if each["kind"] == "StatefulSet")
    spoiled = yaml.safe_load(yaml.safe_dump(broken))
    spoiled["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(checker.ValidationError, match="readinesProbe"):
        checker.validate(spoiled, VERSION, strict=True)


def test_there_is_what_a_fleet_needs() -> None:
    kinds = {(each["kind"], each["metadata"]["name"]) for _, each in ALL}
    assert kinds >= {
        ("ConfigMap", "retrieval-config"),
        ("Deployment", "retrieval-broker"),
        ("StatefulSet", "retrieval-shard-a"),
        ("Service", "retrieval"),
        ("Service", "retrieval-shard"),
        ("PodDisruptionBudget", "retrieval-broker"),
        ("PodDisruptionBudget", "retrieval-shard"),
    }


def configured() -> dict[str, dict[str, Any]]:
    (config,) = (each for _, each in ALL if each["kind"] == "ConfigMap")
    return {name: tomllib.loads(text) for name, text in config["data"].items()}


@pytest.mark.parametrize("name", ["broker.toml", "shard.toml"])
def test_the_settings_are_settings(name: str) -> None:
    values = configured()[name]
    assert read_settings(options=values).port == 8980
    assert set(values) <= set(ServingSettings.model_fields)


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet"])
def test_a_pod_fits_its_settings_its_service_and_its_budget(kind: str) -> None:
    (workload,) = (each for _, each in ALL if each["kind"] == kind)
    pod = workload["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    settings = configured()[f"{container['name']}.toml"]
    labels = pod["metadata"]["labels"].items()
    assert workload["spec"]["selector"]["matchLabels"].items() <= labels
    (service,) = (s for _, s in ALL if s["kind"] == "Service" and s["spec"]["selector"].items() <= labels)
    (budget,) = (
        b
        for _, b in ALL
        if b["kind"] == "PodDisruptionBudget" and b["spec"]["selector"]["matchLabels"].items() <= labels
    )
    assert budget["spec"]["maxUnavailable"] == 1
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports == {"grpc": settings["port"], "metrics": settings["metrics_port"]}
    assert service["spec"]["ports"][0]["targetPort"] == "grpc"
    assert service["spec"]["ports"][0]["port"] == settings["port"]
    # a drain that Kubernetes cuts off is no drain
    sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["spec"]["terminationGracePeriodSeconds"] > settings["drain_seconds"] + sleep
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    assert set(mounts.values()) == {each["name"] for each in pod["spec"]["volumes"]}
    for name in ("store", "checkpoint", "tls_certificate", "tls_key", "tokens"):
        if name in settings:
            assert any(settings[name].startswith(mount) for mount in mounts), name
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] == "metrics"


def test_the_unit_and_its_settings() -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(ROOT / "deploy" / "systemd" / "retrieval.service")
    service = unit["Service"]
    assert service["ExecStartPre"] == f"{service['ExecStart']} --check-config"
    settings = read_settings(ROOT / "deploy" / "server.toml")
    assert float(service["TimeoutStopSec"]) > settings.drain_seconds + 5
    assert service["KillMode"] == "mixed"
