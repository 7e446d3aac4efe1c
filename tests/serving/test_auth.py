"""Tokens and quotas: who is let in, how much of it, and what a changed file does."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import InvalidParams, NotAuthenticated, QuotaExceeded
from retrieval.serving.operate.auth import Callers, read_callers


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def write(path: Path, **callers: str) -> Path:
    lines = [f'[callers.{name}]\ntoken_sha256 = "{digest(name)}"\n{more}\n' for name, more in callers.items()]
    path.write_text("\n".join(lines))
    return path


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def bearer(token: str) -> list[tuple[str, str | bytes]]:
    return [("user-agent", "test"), ("authorization", f"Bearer {token}")]


def test_known_tokens_are_let_in_and_others_not(tmp_path: Path) -> None:
    callers = Callers(write(tmp_path / "t.toml", web="", mobile=""))
    assert callers.names == ["web", "mobile"]
    assert (callers.admit(bearer("web")), callers.admit(bearer("mobile"))) == ("web", "mobile")
    assert callers.admit([("authorization", "bearer  web ")]) == "web"
    for missing in ([], [("authorization", "Basic web")], [("authorization", b"Bearer web")]):
        with pytest.raises(NotAuthenticated, match="the call carries no token: send metadata 'authorization: Bearer"):
            callers.admit(missing)  # type: ignore[arg-type]
    for wrong in ("", "wen", "web2", digest("web"), "wéb"):
        with pytest.raises(NotAuthenticated, match="the token is not one that this server knows"):
            callers.admit(bearer(wrong))


@given(
    rate=st.floats(0.5, 1e4),
    burst=st.floats(1, 500),
    gaps=st.lists(st.floats(0, 0.5), min_size=1, max_size=300),
)
def test_no_more_than_rate_and_burst_get_through(
    tmp_path_factory: pytest.TempPathFactory, rate: float, burst: float, gaps: list[float]
) -> None:
    clock = Clock()
    file = write(tmp_path_factory.mktemp("t") / "t.toml", web=f"requests_per_second = {rate}\nburst = {burst}")
    callers = Callers(file, clock=clock, look_seconds=1e9)
    admitted = 0
    for gap in gaps:
        clock.now += gap
        try:
            callers.admit(bearer("web"))
            admitted += 1
        except QuotaExceeded as error:
            # the hint is honest: at that instant the next one gets through
            clock.now += (error.retry_after_ms or 0) / 1e3 + 1e-9
            callers.admit(bearer("web"))
            admitted += 1
    assert admitted <= burst + rate * (clock.now - 100) + 1e-6


def test_quotas_are_each_callers_own_and_say_when_to_come_back(tmp_path: Path) -> None:
    clock = Clock()
    file = write(tmp_path / "t.toml", web="requests_per_second = 2\nburst = 3", free="")
    callers = Callers(file, clock=clock)
    for _ in range(3):
        callers.admit(bearer("web"))
    with pytest.raises(
        QuotaExceeded, match=r"caller web is over its quota of 2 requests/s \(burst 3\): try again in 500 ms"
    ):
        callers.admit(bearer("web"))
    for _ in range(100):
        callers.admit(bearer("free"))


def test_a_changed_file_is_taken_up_and_a_bad_one_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    file = write(tmp_path / "t.toml", web="requests_per_second = 1", old="")
    callers = Callers(file, clock=clock)
    callers.admit(bearer("web"))
    write(tmp_path / "new.toml", web="requests_per_second = 1", young="")
    os.replace(tmp_path / "new.toml", file)
    clock.now += 0.4
    assert callers.admit(bearer("old")) == "old"  # not looked at yet
    clock.now += 0.7
    assert callers.admit(bearer("young")) == "young"
    with pytest.raises(NotAuthenticated, match="not one that this server knows"):
        callers.admit(bearer("old"))
    (tmp_path / "bad.toml").write_text("callers = 3")
    os.replace(tmp_path / "bad.toml", file)
    clock.now += 2
    assert callers.admit(bearer("young")) == "young"
    assert "the tokens file is not taken up, the old callers stay" in caplog.text


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "callers: field required"),
        ("[callers]", "callers: "),
        ("[callers.web]\ntoken = 'x'", r"callers\.web\.token_sha256: field required"),
        (f"[callers.web]\ntoken_sha256 = '{'A' * 64}'", r"callers\.web\.token_sha256: "),
        (f"[callers.web]\ntoken_sha256 = '{'a' * 64}'\nburst = 3", "caller web has a burst without"),
        (f"[callers.web]\ntoken_sha256 = '{'a' * 64}'\nrequests_per_second = 0", "requests_per_second"),
        (
            f"[callers.web]\ntoken_sha256 = '{'a' * 64}'\n[callers.other]\ntoken_sha256 = '{'a' * 64}'",
            "two callers have the same token",
        ),
    ],
)
def test_a_bad_file_is_one_sentence_without_tokens(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "t.toml").write_text(text)
    with pytest.raises(InvalidParams, match=sentence) as caught:
        read_callers(tmp_path / "t.toml")
    assert "a" * 64 not in str(caught.value)
    assert "A" * 64 not in str(caught.value)
