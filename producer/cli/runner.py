"""Commands about all runs of a folder: runs, runner."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backlog.errors import UsageError
from backlog.processes import cores
from producer.cli.output import echo, printable, read_settings
from producer.translation import t, translated

if TYPE_CHECKING:
    from producer.runner.runs import RunInfo


@click.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--json", "as_json", is_flag=True, help="As JSON, one line a run.")
def runs(folder: Path | None, as_json: bool) -> None:
    """List the runs in FOLDER. Default: CXR_RUNS_FOLDER, else the current folder. Asks neither Redis nor a PACS."""
    from producer.runner.runs import find_runs, runner_lives

    folder = folder or Path(read_settings().runs_folder or ".")
    found = list(find_runs(folder.absolute()))
    if as_json:
        for run in found:
            click.echo(json.dumps(_as_json(run)))
        return
    in_quarantine = t("quarantined")
    for run in found:
        total = run.counts.total
        quarantined = sum(run.counts.quarantined.values())
        click.echo(
            f"{t(run.state.value):<12}{run.ended:>9} {t('of')} {total:<9}"
            f"{f'{in_quarantine} {quarantined}' if quarantined else '':<20}{printable(run.out)}"
        )
        if why := run.note or (run.failure.reason if run.failure else ""):
            click.echo(f"{'':<12}{printable(translated(why))}")
    click.echo(t("{count} runs in {folder}").format(count=len(found), folder=folder))
    if not runner_lives(folder):
        echo("No runner works through this folder.")


def _as_json(run: RunInfo) -> dict[str, object]:
    known = run.source is not None
    return {
        "out": str(run.out),
        "run": run.run,
        "state": run.state.value,
        "when": run.when,
        "ended": run.ended,
        **{name: value if known else None for name, value in vars(run.counts).items()},
        "note": run.note or (run.failure.reason if run.failure else ""),
    }


@click.command()
@click.option(
    "--inbox",
    type=click.Path(path_type=Path, file_okay=False),
    help="With CXR_RUN_INBOX: begin a run for each zip that is put there.",
)
def runner(inbox: Path | None) -> None:
    """Work through the runs in CXR_RUNS_FOLDER, one after another, until told to stop.

    Begins what 'run --detach' queued, and goes on with what was interrupted, but not with what is paused, cancelled or
    was stopped by Ctrl-C.
    """
    from contextlib import nullcontext

    from producer.run.signals import stopping_on_signals
    from producer.runner.inbox import Inbox
    from producer.runner.service import Runner

    settings = read_settings()
    if not settings.runs_folder:
        raise UsageError("the runner works through one folder: set CXR_RUNS_FOLDER")
    if settings.run_inbox and inbox is None:
        raise UsageError("CXR_RUN_INBOX begins a run for each zip of a folder: name it with --inbox")
    service = Runner(
        Path(settings.runs_folder).absolute(),
        settings,
        click.echo,
        Inbox(inbox.absolute()) if inbox and settings.run_inbox else None,
        workers=cores(),
    )
    with stopping_on_signals() as stop:
        if settings.metrics_port:
            from producer.runner.metrics import RunsMetrics  # an extra's library

            serving = RunsMetrics(settings, lambda: service.runs)
        else:
            serving = None
        with serving or nullcontext():
            service.work(stop.is_set)
