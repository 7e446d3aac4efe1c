"""`retrieval serve --check-config` and `retrieval search` over TLS with a token, called in process."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest
import typer
from tiny_certificates import Authority
from tiny_store import make_store
from tiny_tower import make_tiny_checkpoint

from retrieval.cli.search import search
from retrieval.cli.serve import serve
from retrieval.errors import InvalidParams, NotAuthenticated
from retrieval.serving.config import make_settings
from retrieval.serving.server import Server, open_engine
from retrieval.towers.query import QueryTower

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def test_check_config_prints_what_is_in_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_store(tmp_path / "store", 20, 8, 1)
    config = tmp_path / "server.toml"
    config.write_text(f"store = '{tmp_path / 'store'}'\nport = 7\n[encode]\nmax_batch = 5\n")
    serve(config=config, port=8, pairs=["encode.max_wait_ms=1.5"], check_config=True)
    printed = capsys.readouterr().out
    values = tomllib.loads(printed)
    assert (values["port"], values["encode"]["max_batch"], values["encode"]["max_wait_ms"]) == (8, 5, 1.5)
    assert "# tokens is not set\n" in printed
    assert printed.splitlines()[-1].startswith("# pin: generation 000001-")


def test_check_config_exits_with_2_and_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught:
        serve(store=tmp_path / "nowhere", check_config=True)
    assert caught.value.exit_code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("retrieval: ")
    assert len(printed.err.splitlines()) == 1


def test_search_shows_a_certificate_and_a_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path / "checkpoint", d=16)
    make_store(tmp_path / "store", 30, 16, 1, space_id=QueryTower.load(checkpoint).space_id)
    authority = Authority(tmp_path)
    pair, caller = authority.issue("server"), authority.issue("caller")
    tokens, token = tmp_path / "tokens.toml", tmp_path / "token"
    tokens.write_text(f"[callers.me]\ntoken_sha256 = '{hashlib.sha256(b'secret').hexdigest()}'\n")
    token.write_text("secret\n")
    settings = make_settings(
        store=tmp_path / "store", checkpoint=checkpoint, port=0, torch_threads=1, tokens=tokens,
        tls_certificate=pair.certificate, tls_key=pair.key, tls_client_ca=authority.file,
    )  # fmt: skip
    engine = open_engine(settings)
    server = Server(engine, settings)
    try:
        target = f"localhost:{server.start()}"
        shown = {"target": target, "ca": authority.file, "certificate": caller.certificate, "key": caller.key}
        search("red chair", k=3, as_json=True, token_file=token, **shown)
        answer = json.loads(capsys.readouterr().out)
        assert len(answer["candidates"][0]["ranking"]) == 3
        with pytest.raises(NotAuthenticated, match="the call carries no token"):
            search("red chair", k=3, **shown)
    finally:
        server.stop(0).wait()
        engine.close()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [(None, "cannot read a token from .*: No such file"), (b"\n", "holds no token"), (b"\xff", "it is not ASCII text")],
)
def test_a_token_file_that_holds_none(tmp_path: Path, data: bytes | None, sentence: str) -> None:
    if data is not None:
        (tmp_path / "token").write_bytes(data)
    with pytest.raises(InvalidParams, match=sentence):
        search("red", target="localhost:1", token_file=tmp_path / "token")
