"""How a broker reaches leaves that ask for TLS, certificates and tokens, and one sentence for each mistake."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer
from tiny_certificates import Authority, Pair
from tiny_store import SPACE, make_store, make_vectors

from retrieval.cli.serve import serve
from retrieval.errors import InvalidParams, Unavailable
from retrieval.serving.calls import VectorQuery, Wanted
from retrieval.serving.config import make_settings
from retrieval.serving.engine import Engine
from retrieval.serving.fleet.access import read_leaf_files
from retrieval.serving.fleet.broker import Broker
from retrieval.serving.server import Server, open_engine

D = 8
QUERY = VectorQuery(values=make_vectors(1, D, seed=1)[0], space_id=SPACE)


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Engine]]:
    store: Path = tmp_path_factory.mktemp("store")
    make_store(store, 40, D, 2)
    engine = open_engine(make_settings(store=store, role="shard"))
    yield store, engine
    engine.close()


@contextmanager
def leaf(part: tuple[Path, Engine], **values: Any) -> Iterator[int]:
    server = Server(part[1], make_settings(store=part[0], role="shard", port=0, threads=2, **values))
    try:
        yield server.start()
    finally:
        server.stop(0).wait()
        server.operations.close()


def broker_of(port: int, resolve: Callable[[str, int], list[str]] | None = None, **values: Any) -> Broker:
    target = f"localhost:{port}" if resolve is None else f"dns:localhost:{port}"
    settings = make_settings(role="broker", shards=target, probe_interval_seconds=0.1, **values)
    return Broker(settings) if resolve is None else Broker(settings, resolve=resolve)


def answers(broker: Broker) -> bool:
    try:
        return Engine(broker.load()).search(QUERY, Wanted(k=3)).sources[0].coverage == 1
    finally:
        broker.close()


def tokens_file(folder: Path, *tokens: str) -> Path:
    path = folder / "tokens.toml"
    lines = [
        f"[callers.c{n}]\ntoken_sha256 = '{hashlib.sha256(t.encode()).hexdigest()}'\n" for n, t in enumerate(tokens)
    ]
    path.write_text("".join(lines))
    return path


def asked_with(pair: Pair) -> dict[str, Path]:
    return {"leaf_certificate": pair.certificate, "leaf_key": pair.key}


def test_leaves_with_mutual_tls_and_tokens_are_reached(tmp_path: Path, part: tuple[Path, Engine]) -> None:
    authority, foreign = Authority(tmp_path), Authority(tmp_path, "foreign")
    own, shown, stranger = authority.issue("leaf"), authority.issue("broker"), foreign.issue("stranger")
    token = tmp_path / "token"
    token.write_text("secret\n")
    secured = {
        "tls_certificate": own.certificate, "tls_key": own.key, "tls_client_ca": authority.file,
        "tokens": tokens_file(tmp_path, "secret"),
    }  # fmt: skip
    ca = {"leaf_ca": authority.file}
    with leaf(part, **secured) as port:
        assert answers(broker_of(port, **ca, **asked_with(shown), leaf_token_file=token))
        # an address of a name: the certificate is held against the name
        assert answers(broker_of(port, lambda *_: ["127.0.0.1"], **ca, **asked_with(shown), leaf_token_file=token))
        with pytest.raises(Unavailable, match=r"localhost:\d+: UNAUTHENTICATED \(the call carries no token"):
            answers(broker_of(port, **ca, **asked_with(shown)))
        for wrong in ({}, ca, {**ca, **asked_with(stranger)}, {"leaf_ca": foreign.file, **asked_with(shown)}):
            with pytest.raises(Unavailable, match=r"no leaf answers \(localhost:\d+: (UNAVAILABLE|DEADLINE_EXCEEDED)"):
                answers(broker_of(port, **wrong, leaf_token_file=token))


def test_new_files_are_taken_up_and_bad_ones_are_not(
    tmp_path: Path, part: tuple[Path, Engine], caplog: pytest.LogCaptureFixture
) -> None:
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    own, shown = old.issue("leaf"), old.issue("broker")
    ca, token = tmp_path / "ca.pem", tmp_path / "token"
    ca.write_bytes(old.file.read_bytes())
    token.write_text("first")
    tokens = tokens_file(tmp_path, "first", "second")
    secured: dict[str, Any] = {"tls_certificate": own.certificate, "tls_key": own.key, "tls_client_ca": old.file}
    with leaf(part, **secured, tokens=tokens) as port, caplog.at_level(logging.INFO):
        broker = broker_of(port, leaf_ca=ca, **asked_with(shown), leaf_token_file=token)
        engine = Engine(broker.load())
        engine.follow(broker)

        def wait_for(sentence: str, times: int) -> None:
            end = time.monotonic() + 20
            while sum(sentence in record.message for record in caplog.records) < times:
                assert time.monotonic() < end
                time.sleep(0.02)

        token.write_text("\n")
        wait_for("the new files for the leaves are not taken up, the old ones stay in use: ", 1)
        assert engine.search(QUERY, Wanted(k=3)).sources[0].coverage == 1
        token.write_text("second")
        wait_for("new files for the leaves are taken up", 1)
        tokens_file(tmp_path, "second")
        both = ca.read_bytes() + new.file.read_bytes()
        (tmp_path / "both.pem").write_bytes(both)
        os.replace(tmp_path / "both.pem", ca)
        wait_for("new files for the leaves are taken up", 2)
        time.sleep(1.2)  # until the leaf has looked at its tokens again
        assert engine.search(QUERY, Wanted(k=3)).sources[0].coverage == 1
        engine.close()


def test_each_mistake_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    authority = Authority(tmp_path)
    good, other, expired = authority.issue("good"), authority.issue("other"), authority.issue("old", days=(-9, -2))
    letter, empty = tmp_path / "letter", tmp_path / "empty"
    letter.write_text("Dear Sir")
    empty.write_text("\n")
    bad: list[tuple[dict[str, Any], str]] = [
        ({"leaf_certificate": good.certificate}, "leaf_certificate is set without leaf_key: a certificate and its key"),
        ({"leaf_key": good.key}, "leaf_key is set without leaf_certificate: a certificate and its key go together"),
        ({"leaf_ca": letter}, "letter holds no certificate authority in PEM form: name the leaves' authority"),
        ({"leaf_ca": tmp_path / "none"}, "cannot read .*none: no such file"),
        ({"leaf_certificate": good.certificate, "leaf_key": other.key}, "other.key is not the key of .*good.pem"),
        (asked_with(expired), "old.pem cannot be used: certificate has expired; put a valid certificate"),
        ({"leaf_token_file": empty}, "empty holds no token: put one line of printable ASCII text into it"),
        ({"leaf_token_file": tmp_path / "none"}, "cannot read .*none: no such file"),
    ]
    for values, sentence in bad:
        with pytest.raises(InvalidParams, match=sentence):
            read_leaf_files(make_settings(role="broker", shards="a:1", **values))
        pairs = [f"{name}={str(value)!r}" for name, value in values.items()]
        with pytest.raises((typer.Exit, InvalidParams)):
            serve(role="broker", shards="a:1", pairs=pairs, check_config=True)
    with pytest.raises(InvalidParams, match="leaf_ca is set with role = 'all': only a broker has leaves, leave it out"):
        make_settings(store="x", leaf_ca=authority.file)
    capsys.readouterr()
    told = [
        f"leaf_ca={str(authority.file)!r}",
        f"leaf_certificate={str(good.certificate)!r}",
        f"leaf_key={str(good.key)!r}",
    ]
    serve(role="broker", shards="a:1", pairs=told, check_config=True)
    assert "# leaves are reached over TLS, showing " in (printed := capsys.readouterr().out)
    assert printed.splitlines()[-1].endswith("), without a token")
