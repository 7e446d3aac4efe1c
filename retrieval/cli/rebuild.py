"""`retrieval rebuild`: the job of every night. Exit code 3 when the gate refuses; then what was live serves on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retrieval.cli.phrases import counted, read_first
from retrieval.cli.progress import progress_printer
from retrieval.errors import InvalidParams, RetrievalError

if TYPE_CHECKING:
    from index_builders.rebuild import RebuildReport

REFUSED_EXIT_CODE = 3


# build options that errors name as a way out -> keys of a job's file
_KEYS = {
    "--max-memory": "limits.memory",
    "--max-disk": "limits.disk",
    "--max-quarantined": "index.max_quarantined",
    "--min-recall": "index.min_recall",
    "--shards": "index.shards",
    "--kind": "index.kind",
    "--workers": "index.workers",
    "--space-id": "space_id",
}


def rebuild(
    config: Annotated[Path, typer.Option(help="The job's TOML file: source, store, what is built, limits.")],
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Only check the file and the source's metadata, so that no night is lost to them."
        ),
    ] = False,
    approve: Annotated[
        str | None, typer.Option(help="Publish even if the gate refuses; the reason is kept in the manifest.")
    ] = None,
    new_columns: Annotated[
        bool, typer.Option("--new-columns", help="Accept that columns are gone or of another type since last time.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object as the last line.")] = False,
) -> None:
    """Bring the live generation up to its source at the cost of what changed. The same inputs again do nothing."""
    if approve is not None and not approve.strip():
        raise InvalidParams("--approve needs a reason, which is kept in the manifest")
    # before numpy is loaded: of several threads that multiply matrices all but one spend their time waiting
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from index_builders.rebuild import Outcome, check_job, read_job
    from index_builders.rebuild import rebuild as run_rebuild

    job = read_job(config)
    if check:
        found = check_job(job, new_columns=new_columns)
        print(
            f"{config} is fine: {found.rows:,} rows of space {found.space_id} in {job.source} into {job.store}, state "
            f"in {job.work_folder()}"
        )
        return
    with progress_printer(f"rebuild {job.entity_type}") as progress:
        try:
            report = run_rebuild(job, approve=approve, new_columns=new_columns, progress=progress)
        except RetrievalError as error:
            raise _in_keys(error) from None
    print(sentences(report))
    if as_json:
        print(json.dumps(report.to_json()))
    if report.outcome is Outcome.REFUSED:
        raise typer.Exit(REFUSED_EXIT_CODE)


def _in_keys(error: RetrievalError) -> RetrievalError:
    """The same error with the keys of a job's file in place of the options of `retrieval build`."""
    sentence = str(error)
    for option, key in _KEYS.items():
        sentence = sentence.replace(option, key)
    if sentence == str(error):
        return error
    return type(error)(sentence)


def sentences(report: RebuildReport) -> str:
    """What happened, a line each."""
    from index_builders.rebuild import Outcome

    if report.outcome is Outcome.UNCHANGED:
        lines = [f"nothing changed: generation {report.generation} was made of these inputs, {report.seconds:.1f} s"]
    elif report.outcome is Outcome.REFUSED:
        lines = [f"refused: {report.parent or 'nothing'} stays live", *report.findings]
        lines.append("publish it all the same with --approve REASON")
    else:
        lines = [
            f"published generation {report.generation} of {report.entity_type}: {report.rows} rows, {report.built} "
            f"shards built, {report.reused} reused, {report.embedded} rows embedded, {report.seconds:.1f} s"
        ]
        if report.approved:
            lines.append(f"the gate was overruled ({report.approved}) in {counted(len(report.findings), 'limit')}:")
            lines += report.findings
    lines += [f"note: {note}" for note in report.notes]
    if report.gate_report:
        lines.append(read_first(report.gate_report))
    return "\n".join(lines)
