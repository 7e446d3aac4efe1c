"""Settings from a file, from pairs and from options: who wins, what is refused, and the way back to TOML."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_store import make_store

from retrieval.errors import InvalidParams, NoGeneration, RetrievalError, StoreError
from retrieval.serving.operate.check import check
from retrieval.serving.operate.settings_file import read_settings, write_settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_options_win_over_pairs_and_pairs_over_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "server.toml", 'store = "a"\nport = 1\nmax_batch = 7\nthreads = 2\n')
    settings = read_settings(file, ["port=2", "threads=3", "precision=bfloat16", "tokens=/x/y"], {"port": 3})
    assert (settings.store, settings.port, settings.max_batch, settings.threads) == (Path("a"), 3, 7, 3)
    assert (settings.precision, settings.tokens) == ("bfloat16", Path("/x/y"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("store = 'a'\nprot = 1", "server.toml: there is no setting 'prot'; the settings are store, "),
        ("store = 'a'\nport = 70000", "server.toml: setting port = 70000 is not acceptable: "),
        ("store = 'a'\n[encode]\nnope = 1", "there is no setting 'encode.nope'; the settings are "),
        ("store = ", "server.toml is not TOML: "),
        ("port = 1", "setting store is missing: give --store"),
        ("store = 'a'\ntls_key = 'k'", "tls_key is set without tls_certificate: "),
        ("store = 'a'\ntls_client_ca = 'k'", "tls_client_ca is set without tls_certificate: "),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(InvalidParams) as caught:
        read_settings(write(tmp_path / "server.toml", text))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value).split(" is not TOML")[0]


@pytest.mark.parametrize(
    ("pair", "sentence"),
    [
        ("port", "--set 'port' is not name=value"),
        ("=1", "--set '=1' is not name=value"),
        ("port.x=1", "port is a value and has nothing inside it"),
        ("nope=1", "there is no setting 'nope'"),
    ],
)
def test_a_bad_pair_is_one_sentence(pair: str, sentence: str) -> None:
    with pytest.raises(InvalidParams, match=sentence):
        read_settings(None, ["port=1", pair], {"store": "a"})


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(InvalidParams, match=r"cannot read .*none\.toml: no such file"):
        read_settings(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidParams, match="it is not UTF-8 text"):
        read_settings(tmp_path / "bytes.toml")


@given(
    st.fixed_dictionaries(
        {"store": st.text(st.characters(exclude_characters="\x00\x7f", exclude_categories=["Cs"]), min_size=1)},
        optional={
            "port": st.integers(0, 65_535),
            "drain_seconds": st.floats(0, 3_600),
            "log_calls": st.sampled_from(["none", "errors", "all"]),
            "traces_endpoint": st.just("http://localhost:4317"),
            "tokens": st.just("/etc/tokens.toml"),
        },
    )
)
def test_written_settings_read_back_are_the_same(values: dict[str, Any]) -> None:
    settings = read_settings(options=values)
    assert read_settings(options=tomllib.loads(write_settings(settings))) == settings


def test_check_finds_what_a_start_would_find(tmp_path: Path) -> None:
    make_store(tmp_path / "store", 20, 8, 1)
    settings = read_settings(options={"store": tmp_path / "store"})
    (found,) = check(settings)
    assert found.startswith("pin: generation 000001-")
    tokens = write(tmp_path / "tokens.toml", "[callers.web]\ntoken_sha256 = 'short'")
    (tmp_path / "empty").mkdir()
    bad: list[tuple[dict[str, Any], type[RetrievalError], str]] = [
        ({"store": tmp_path / "nowhere"}, StoreError, "nowhere"),
        ({"checkpoint": tmp_path / "empty"}, StoreError, "is not a checkpoint"),
        ({"tokens": tokens}, InvalidParams, "callers.web.token_sha256"),
        ({"tls_certificate": tokens, "tls_key": tokens}, InvalidParams, "in PEM form"),
    ]
    for values, kind, sentence in bad:
        with pytest.raises(kind, match=sentence):
            check(settings.model_copy(update=values))
    (tmp_path / "store" / "pin" / "CURRENT").unlink()
    with pytest.raises(NoGeneration, match="nothing is published in"):
        check(settings)
