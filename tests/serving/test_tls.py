"""TLS: files that cannot be used are one sentence, callers are checked, new files are taken up while serving."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tiny_certificates import Authority, Pair
from tiny_store import SPACE, make_store

from retrieval import client as rc
from retrieval.client import Tls
from retrieval.errors import InvalidParams, NotAuthenticated, QuotaExceeded, Unavailable
from retrieval.serving.config import make_settings
from retrieval.serving.engine import Engine
from retrieval.serving.operate.credentials import read_tls
from retrieval.serving.server import Server
from retrieval.serving.swap.load import load_store

QUERY = rc.Vector(values=np.ones(8), space_id=SPACE)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    store = tmp_path_factory.mktemp("store")
    make_store(store, 30, 8, 1)
    return Engine(load_store(make_settings(store=store)))


@contextmanager
def serving(engine: Engine, **values: Any) -> Iterator[tuple[Server, str]]:
    server = Server(engine, make_settings(store="x", port=0, threads=2, **values))
    try:
        yield server, f"localhost:{server.start()}"
    finally:
        server.stop(0).wait()


def connect(target: str, tls: Tls | None, token: str | None = None) -> rc.RetrievalClient:
    return rc.RetrievalClient(target, tls=tls, token=token, timeout_s=5)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    good, other = authority.issue("good"), authority.issue("other")
    expired, early = authority.issue("expired", days=(-9, -2)), authority.issue("early", days=(2, 9))
    locked = authority.issue("locked", password=b"secret")
    (tmp_path / "letter").write_text("Dear Sir")
    files = read_tls(good.certificate, good.key, authority.file)
    assert 9 * 86_400 < files.expires - time.time() < 10 * 86_400 + 60
    bad: list[tuple[tuple[Path, Path, Path | None], str]] = [
        ((good.certificate, other.key, None), "other.key is not the key of .*good.pem: give the two files of one pair"),
        ((expired.certificate, expired.key, None), "expired.pem cannot be used: certificate has expired; put a valid"),
        ((early.certificate, early.key, None), "early.pem cannot be used: certificate is not yet valid; put a valid"),
        ((tmp_path / "letter", good.key, None), "are not a certificate and its unencrypted key in PEM form"),
        ((locked.certificate, locked.key, None), "are not a certificate and its unencrypted key in PEM form"),
        ((tmp_path / "none", good.key, None), "cannot read .*none: no such file"),
        ((good.certificate, good.key, tmp_path / "letter"), "letter holds no certificate authority in PEM form"),
    ]
    for (certificate, key, ca), sentence in bad:
        with pytest.raises(InvalidParams, match=sentence):
            read_tls(certificate, key, ca)


def test_a_caller_trusts_only_its_authority(tmp_path: Path, engine: Engine) -> None:
    authority, foreign = Authority(tmp_path), Authority(tmp_path, "foreign")
    pair = authority.issue("server")
    with serving(engine, tls_certificate=pair.certificate, tls_key=pair.key) as (_, target):
        with connect(target, Tls(ca=authority.file)) as client:
            assert len(client.search(QUERY, k=3).candidates[0]) == 3
        with (
            connect(target, Tls(ca=foreign.file)) as client,
            pytest.raises(Unavailable, match=r"no secure connection to localhost:\d+: .*the server's certificate"),
        ):
            client.search(QUERY, k=3)
        with connect(target, None) as client, pytest.raises(Unavailable, match=r"UNAVAILABLE|no answer"):
            client.search(QUERY, k=3, timeout_s=1)


def test_a_server_that_asks_lets_only_its_callers_in(tmp_path: Path, engine: Engine) -> None:
    authority, foreign = Authority(tmp_path), Authority(tmp_path, "foreign")
    pair, caller = authority.issue("server"), authority.issue("caller")
    expired, stranger = authority.issue("expired", days=(-9, -2)), foreign.issue("stranger")
    values = {"tls_certificate": pair.certificate, "tls_key": pair.key, "tls_client_ca": authority.file}
    with serving(engine, **values) as (_, target):
        with connect(target, Tls(ca=authority.file, certificate=caller.certificate, key=caller.key)) as client:
            assert len(client.search(QUERY, k=3).candidates[0]) == 3
        for shown in (None, expired, stranger):
            more = {} if shown is None else {"certificate": shown.certificate, "key": shown.key}
            with (
                connect(target, Tls(ca=authority.file, **more)) as client,
                pytest.raises(Unavailable, match=r"no secure connection to localhost:\d+|UNAVAILABLE|no answer within"),
            ):
                client.search(QUERY, k=3, timeout_s=2)
    with pytest.raises(InvalidParams, match="a client certificate and its key go together"):
        connect("localhost:1", Tls(certificate=caller.certificate))
    with pytest.raises(InvalidParams, match=r"cannot read .*nowhere: no such file"):
        connect("localhost:1", Tls(ca=tmp_path / "nowhere"))


def replace(pair: Pair, by: Pair) -> None:
    for old, new in ((pair.certificate, by.certificate), (pair.key, by.key)):
        os.replace(new, old)


def test_new_certificates_are_taken_up_while_serving(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("retrieval.serving.operate.credentials._LOOK_SECONDS", 0.0)
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    pair = old.issue("server")
    with serving(engine, tls_certificate=pair.certificate, tls_key=pair.key) as (_, target):
        with connect(target, Tls(ca=old.file)) as first:
            first.search(QUERY, k=3)
            pair.key.write_text("half written")
            with connect(target, Tls(ca=old.file, server_name="localhost")) as client:
                client.search(QUERY, k=3)  # the last good ones stay
            replace(pair, new.issue("next"))
            with connect(target, Tls(ca=new.file)) as client:
                client.search(QUERY, k=3)
            first.search(QUERY, k=3)  # a connection that is open stays open
        with connect(target, Tls(ca=old.file)) as client, pytest.raises(Unavailable, match="no secure connection"):
            client.search(QUERY, k=3, timeout_s=2)
    assert "the new certificate files are not taken up, the old ones stay in use" in caplog.text


def test_tokens_and_quotas_over_the_wire(tmp_path: Path, engine: Engine) -> None:
    tokens = tmp_path / "tokens.toml"
    # SHA-256 of "open sesame"
    digest = "41ef4bb0b23661e66301aac36066912dac037827b4ae63a7b1165a5aa93ed4eb"
    tokens.write_text(f"[callers.ali]\ntoken_sha256 = '{digest}'\nrequests_per_second = 0.01\nburst = 2")
    with serving(engine, tokens=tokens) as (_, target):
        with connect(target, None) as client, pytest.raises(NotAuthenticated, match="carries no token"):
            client.search(QUERY, k=3)
        with connect(target, None, "sesame") as client, pytest.raises(NotAuthenticated, match="not one that"):
            client.describe()
        with connect(target, None, "open sesame") as client:
            client.search(QUERY, k=3)
            client.search(QUERY, k=3)
            with pytest.raises(QuotaExceeded, match=r"caller ali is over its quota of 0.01 requests/s \(burst 2\)"):
                client.search(QUERY, k=3)
        with grpc.insecure_channel(target) as channel:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)  # probes have none
            search = channel.unary_unary("/retrieval.v1.Retrieval/Search")
            with pytest.raises(grpc.RpcError) as caught:
                search(b"", timeout=5, metadata=(("authorization", "Bearer open sesame"),))
            error: Any = caught.value
            trailing = dict(error.trailing_metadata())
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert 0 < int(trailing["retry-after-ms"]) <= 100_000
