"""`retrieval enrich boards|queries|captions|join`: raw logs and images into the texts that an entity tower reads."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from retrieval.cli.progress import progress_printer
from retrieval.errors import InvalidParams

_LOGS, _IMAGES, _JOIN = "boards, queries", "captions", "join"
# verb -> the options it needs, and those it may have besides
_OPTIONS: dict[str, tuple[set[str], set[str]]] = {
    "boards": ({"saves"}, {"column", "top", "min_count", "since_days", "now"}),
    "queries": ({"engagements"}, {"column", "top", "min_count", "since_days", "now", "action_weight"}),
    "captions": ({"images", "model"}, {"column", "batch", "max_tokens", "max_unreadable", "now"}),
    "join": ({"entities", "texts"}, set()),
}


def enrich(
    what: Annotated[
        str,
        typer.Argument(
            help="boards (titles of boards saved to), queries (that were engaged with), captions (of images), or join "
            "(such texts beside the entities)."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for the texts, where a stopped run continues; for join a new .parquet file.")
    ],
    column: Annotated[str | None, typer.Option(help="Name of the list column, as the tower reads it.")] = None,
    now: Annotated[
        datetime | None, typer.Option(help="End of the window and time of making (UTC); makes a run reproducible.")
    ] = None,
    saves: Annotated[
        Path | None, typer.Option(help="Log of saves for boards: id, board_title, time.", rich_help_panel=_LOGS)
    ] = None,
    engagements: Annotated[
        Path | None,
        typer.Option(help="Log of engagements for queries: query, id, action, time, weight.", rich_help_panel=_LOGS),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(help="Texts kept per entity (10); a tower reads the first ones only.", rich_help_panel=_LOGS),
    ] = None,
    min_count: Annotated[
        float | None,
        typer.Option(help="Floor on the weighted count (1): rare texts are noise.", rich_help_panel=_LOGS),
    ] = None,
    since_days: Annotated[
        str | None,
        typer.Option(
            help="Look-back window in days (365), so that old habits fade; none looks back to the beginning.",
            rich_help_panel=_LOGS,
        ),
    ] = None,
    action_weight: Annotated[
        list[str] | None,
        typer.Option(help="action=weight, repeatable; other actions then count nothing.", rich_help_panel=_LOGS),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder of images (id: path without suffix), or table of id and path.", rich_help_panel=_IMAGES
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Image-to-text model: Hugging Face name or local folder.", rich_help_panel=_IMAGES),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="Images captioned together (16): more is faster on a GPU.", rich_help_panel=_IMAGES),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(help="Tokens of a caption at most (32): bounds the time of each.", rich_help_panel=_IMAGES),
    ] = None,
    max_unreadable: Annotated[
        float | None,
        typer.Option(
            help="Share of unreadable images above which the work stops (0.01): many mean a wrong folder.",
            rich_help_panel=_IMAGES,
        ),
    ] = None,
    entities: Annotated[Path | None, typer.Option(help="Table of entities.", rich_help_panel=_JOIN)] = None,
    texts: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of texts that enrich made, repeatable.", rich_help_panel=_JOIN),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object last.")] = False,
) -> None:
    """Make the texts of entities out of logs or images, each with its provenance, or join them to the entities."""
    given: dict[str, Any] = {
        "column": column, "now": now, "saves": saves, "engagements": engagements, "top": top, "min_count": min_count,
        "since_days": since_days, "action_weight": action_weight, "images": images, "model": model, "batch": batch,
        "max_tokens": max_tokens, "max_unreadable": max_unreadable, "entities": entities, "texts": texts,
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None and value != []}
    if what not in _OPTIONS:
        raise InvalidParams(f"enrich {what!r} is not known: give {', '.join(_OPTIONS)}")
    needed, possible = _OPTIONS[what]
    for name in sorted(needed - set(given)):
        raise InvalidParams(f"enrich {what} has no {name}: give {_dashed(name)}")
    for name in sorted(set(given) - needed - possible):
        known = ", ".join(_dashed(option) for option in sorted(needed | possible))
        raise InvalidParams(f"enrich {what} has no option {_dashed(name)}: it has {known}")
    work = {"captions": _captions, "join": _join}.get(what, _logs)
    report = work(out, given)
    if as_json:
        typer.echo(json.dumps(report))


def _logs(out: Path, given: dict[str, Any]) -> dict[str, Any]:
    from index_builders.enrich.aggregate import aggregate, plan_log
    from index_builders.enrich.log import LogColumns

    if "saves" in given:
        log, columns = given.pop("saves"), LogColumns(text="board_title")
    else:
        log, columns = given.pop("engagements"), LogColumns(text="query", action="action", weight="weight")
    default = "board_titles" if columns.action is None else "engaged_queries"
    weights = _weights(given.pop("action_weight", []))
    given = {"column": default, **given, "action_weights": weights}
    if "since_days" in given:
        given["since_days"] = _days(given["since_days"])
    plan = plan_log(log, out, columns=columns, **given)
    with progress_printer("enrich") as progress:
        report = aggregate(plan, progress=progress)
    typer.echo(f"{report['texts']:,} texts of {report['entities']:,} entities in {out} (now = {report['now']})")
    for reason, count in report["left_out"].items():
        typer.echo(f"{count:,} rows left out: {reason}")
    return report


def _captions(out: Path, given: dict[str, Any]) -> dict[str, Any]:
    from index_builders.enrich.images import list_images

    images = list_images(given.pop("images"))  # before the seconds that loading torch takes
    from index_builders.enrich.captioner import load_captioner
    from index_builders.enrich.captions import make_captions, plan_captions

    name = given.pop("model")
    plan = plan_captions(images, out, **given)
    captioner = load_captioner(name)
    with progress_printer("enrich") as progress:
        report = make_captions(plan, captioner, progress=progress)
    typer.echo(f"{report['captions']:,} captions of {report['images']:,} images by {report['source']} in {out}")
    if report["unreadable"]:
        typer.echo(f"{report['unreadable']:,} images cannot be read, such as {', '.join(report['named'])}")
    if report["empty"]:
        typer.echo(f"{report['empty']:,} images got an empty caption and are left out")
    return report


def _join(out: Path, given: dict[str, Any]) -> dict[str, Any]:
    from index_builders.enrich.join import join_texts

    with progress_printer("enrich") as progress:
        report = join_texts(given["entities"], given["texts"], out, progress=progress)
    having = ", ".join(f"{count:,} with {name}" for name, count in report["with"].items())
    typer.echo(f"{report['rows']:,} entities in {out}, {having}")
    return report


def _days(text: str) -> int | None:
    if text == "none":
        return None
    try:
        return int(text)
    except ValueError:
        raise InvalidParams(f"since_days = {text!r} is not acceptable: give a number of days, or none") from None


def _weights(pairs: list[str]) -> dict[str, float]:
    weights = {}
    for pair in pairs:
        action, _, weight = pair.rpartition("=")
        try:
            weights[action] = float(weight)
        except ValueError:
            action = ""
        if not action:
            raise InvalidParams(f"action weight {pair!r} is not acceptable: write action=number, such as save=3")
    return weights


def _dashed(name: str) -> str:
    return "--" + name.replace("_", "-")
