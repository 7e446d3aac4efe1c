"""Options of every command that asks a running server: where it is, how to speak to it, what narrows a search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from retrieval.client import Crowding, Effort, Filter, RetrievalClient, Tls, filter_from_json
from retrieval.errors import InvalidParams, InvalidQuery

Target: TypeAlias = Annotated[str, typer.Option(help="host:port of the server")]
Timeout: TypeAlias = Annotated[float, typer.Option(help="seconds to wait for the answer")]
Ca: TypeAlias = Annotated[
    Path | None, typer.Option(help="PEM file of the authority of the server's certificate; speaks TLS")
]
Certificate: TypeAlias = Annotated[Path | None, typer.Option(help="PEM file to show to a server that asks for one")]
Key: TypeAlias = Annotated[Path | None, typer.Option(help="PEM file with the key of --certificate")]
TokenFile: TypeAlias = Annotated[
    Path | None, typer.Option(help="file with the token to send; not an option, because others see command lines")
]
Ef: TypeAlias = Annotated[int | None, typer.Option(help="HNSW candidate pool: larger finds more, slower")]
Nprobe: TypeAlias = Annotated[int | None, typer.Option(help="IVF-PQ lists visited: more finds more, slower")]
Rescore: TypeAlias = Annotated[int | None, typer.Option(help="IVF-PQ candidates rescored exactly")]
MinRecall: TypeAlias = Annotated[
    float | None, typer.Option(help="let the server pick the effort measured to reach this recall, 0 to 1")
]
FilterJson: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--filter",
        help='only entities that fulfil this condition, as JSON: {"equal": {"column": "brand", "value": "Acme"}}, or '
        "in, range, all_of, any_of, negated",
    ),
]
Crowd: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="COLUMN=M", help="at most M candidates per value of a column, so that none fills the answer"),
]


def connect(
    target: str, timeout: float, ca: Path | None, certificate: Path | None, key: Path | None, token_file: Path | None
) -> RetrievalClient:
    """A client as the options describe it; InvalidParams for a token or certificate file that cannot be used."""
    tls = None if ca is None and certificate is None else Tls(ca=ca, certificate=certificate, key=key)
    token = None if token_file is None else _read_token(token_file)
    return RetrievalClient(target, timeout_s=timeout, tls=tls, token=token)


def read_effort(ef: int | None, nprobe: int | None, rescore: int | None) -> Effort | None:
    """The effort asked for, None when none of its parameters is given."""
    given = ef is not None or nprobe is not None or rescore is not None
    return Effort(ef=ef, nprobe=nprobe, rescore=rescore) if given else None


def read_filter(text: str | None) -> Filter | None:
    """The filter that `--filter` describes."""
    return None if text is None else filter_from_json(text)


def read_crowding(text: str | None) -> Crowding | None:
    """The crowding that `--crowd` describes; InvalidQuery unless it is a column and a number."""
    if text is None:
        return None
    column, sign, number = text.rpartition("=")
    if not column or not sign or not number.isascii() or not number.isdigit():
        raise InvalidQuery(f"--crowd {text!r} is not COLUMN=M: write for example --crowd brand=2")
    return Crowding(column=column, at_most=int(number))


def _read_token(path: Path) -> str:
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not ASCII text"
        raise InvalidParams(f"cannot read a token from {path}: {reason}") from None
    if not token or not token.isprintable():
        raise InvalidParams(f"{path} holds no token: put one line of printable text into it")
    return token
