"""The command line: ``cxr-backlog``.

Nothing heavy is imported here: `--help` answers in a third of a second.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from backlog.errors import BacklogError, InstanceRejected, ServiceUnavailable, UsageError

if TYPE_CHECKING:
    from backlog.settings import Settings
    from producer.runs import Paths

OK = 0
FAILED = 1
USAGE = 2
QUARANTINED = 3
INTERRUPTED = 4

_EPILOG = (
    "Exit status: 0 all reported or skipped, 2 usage, 3 finished with quarantined items, 4 interrupted and "
    "resumable, 1 anything else. For research only: the reports are not for diagnosis."
)


class _Commands(click.Group):
    """Turns our errors into one line and an exit status; bugs stay loud."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UsageError as error:
            _fail(error, USAGE)
        except (ServiceUnavailable, InstanceRejected, BacklogError) as error:
            _fail(error, FAILED)


def _fail(error: BaseException, status: int) -> NoReturn:
    click.echo(f"cxr-backlog: {error}", err=True)
    sys.exit(status)


def _settings() -> Settings:
    from backlog.settings import from_environment  # noqa: PLC0415

    return from_environment()


_SOURCE = click.argument("source")
_OUT = click.argument("out", type=click.Path(path_type=Path, file_okay=False))
_PACS = click.option(
    "--pacs", metavar="URL", help="http(s)://… of an Orthanc, or a folder. Default: CXR_PACS_URL, else OUT/pacs."
)
_SINCE = click.option("--since", metavar="DATE", default="", help="Orthanc: only what changed since, YYYY-MM-DD[THH:MM].")
_MODALITY = click.option("--modality", metavar="CS", default="", help="Orthanc: only this modality, as CR or DX.")
_STUDY_DATE = click.option("--study-date", metavar="RANGE", default="", help="Orthanc: only these study dates, as 20240101-20241231.")


@click.group(cls=_Commands, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cxr-backlog")
def main() -> None:
    """Score a backlog of chest radiographs and put one DICOM SR per image back into its study.

    SOURCE is a zip archive, a folder, or the word 'orthanc'.
    """


@main.command()
@_SOURCE
@_PACS
@_SINCE
@_MODALITY
@_STUDY_DATE
@click.option("--sample", default=1000, show_default=True, help="Most headers to read; 0 reads every one.")
def plan(source: str, pacs: str | None, since: str, modality: str, study_date: str, sample: int) -> None:
    """Say what a run would do. Writes nothing."""
    from producer.plan import make_plan  # noqa: PLC0415

    settings = _settings()
    chosen = _selection(since, modality, study_date)
    made = make_plan(source, settings, pacs or settings.pacs_url, chosen, sample)
    for line in _plan_lines(made):
        click.echo(line)


@main.command()
@_SOURCE
@_PACS
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="The run's folder. Default: a new one here.")
@click.option("--workers", type=click.IntRange(1, 256), help="Inference processes. Default: one for each core.")
@_SINCE
@_MODALITY
@_STUDY_DATE
def run(
    source: str, pacs: str | None, out: Path | None, workers: int | None, since: str, modality: str, study_date: str
) -> None:
    """Run the model over a backlog.

    With CXR_REDIS_URL set, only dispatches and watches, and workers elsewhere do the work; without, starts a private
    Redis and the workers itself, and stops them at the end.
    """
    from producer.runs import Paths, create  # noqa: PLC0415

    settings = _settings()
    out = (out or Path(f"cxr-run-{datetime.now():%Y%m%d-%H%M%S}")).absolute()  # noqa: DTZ005  # the person's clock
    paths = Paths(out)
    chosen = _selection(since, modality, study_date)
    create(source, settings, pacs or settings.pacs_url or str(paths.pacs), paths, chosen, workers=workers or _cores())
    _work(settings, paths)


@main.command()
@_OUT
def resume(out: Path) -> None:
    """Go on with an interrupted, paused or cancelled run."""
    from producer.runs import Paths, is_running, open_ledger  # noqa: PLC0415

    paths = Paths(out.absolute())
    open_ledger(paths.out).close()
    paused = paths.pause.exists()
    paths.pause.unlink(missing_ok=True)
    paths.cancel.unlink(missing_ok=True)
    if paused and is_running(paths):
        click.echo("The run goes on.")
        return
    _work(_settings(), paths)


@main.command()
@_OUT
def pause(out: Path) -> None:
    """Send nothing new; what is in flight ends. Go on with 'resume'."""
    from producer.runs import Paths, open_ledger  # noqa: PLC0415

    open_ledger(out).close()
    Paths(out).pause.touch()
    click.echo(f"Paused. Go on with: cxr-backlog resume {out}")


@main.command()
@_OUT
def cancel(out: Path) -> None:
    """Stop the run, here and on every worker. What was reported stays; 'resume' takes it up again."""
    from producer.runs import Paths, open_ledger  # noqa: PLC0415

    ledger = open_ledger(out)
    run_id = ledger.fact("job")["run"]
    ledger.close()
    Paths(out).cancel.touch()
    settings = _settings()
    if settings.redis_url:
        from backlog.claims import Claims  # noqa: PLC0415

        Claims(settings.broker).set_state(run_id, "cancelled")
    click.echo("Cancelled. What was reported stays; see 'cxr-backlog retract' to take it back.")


@main.command()
@_OUT
@click.option("--watch", is_flag=True, help="Show it again every two seconds until the run is complete.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def status(out: Path, watch: bool, as_json: bool) -> None:
    """Say how far a run is."""
    import time  # noqa: PLC0415

    from producer.outputs import summarise  # noqa: PLC0415
    from producer.runs import Paths, is_running, open_ledger  # noqa: PLC0415

    while True:
        ledger = open_ledger(out)
        summary = summarise(ledger)
        ledger.close()
        summary["state"] = _state(Paths(out), complete=summary["complete"], running=is_running(Paths(out)))
        if watch and sys.stdout.isatty() and not as_json:
            click.clear()
        click.echo(json.dumps(summary) if as_json else "\n".join(_summary_lines(summary)))
        if not watch or summary["complete"]:
            return
        time.sleep(2)


@main.command()
@_OUT
@click.option("--format", "form", type=click.Choice(["csv", "jsonl", "parquet"]), default="csv", show_default=True)
@click.option("--to", type=click.Path(path_type=Path, dir_okay=False), help="The file. Default: OUT/scores.FORMAT.")
def export(out: Path, form: str, to: Path | None) -> None:
    """Write the scores that a run has so far."""
    from producer.outputs import WRITERS  # noqa: PLC0415
    from producer.runs import open_ledger  # noqa: PLC0415

    ledger = open_ledger(out)
    path = to or out / f"scores.{form}"
    WRITERS[form](ledger, path)
    click.echo(f"{path}: {ledger.tally().reported} rows")
    ledger.close()


def _selection(since: str, modality: str, study_date: str) -> Any:
    from producer.runs import Selection  # noqa: PLC0415

    if since:
        try:
            since = f"{datetime.fromisoformat(since):%Y%m%dT%H%M%S}"
        except ValueError:
            raise click.BadParameter(f"{since!r} is no date; write it as 2024-12-31 or 2024-12-31T08:00", param_hint="--since") from None
    return Selection(since, modality, study_date)


def _cores() -> int:
    import os  # noqa: PLC0415

    return len(os.sched_getaffinity(0))


def _work(settings: Settings, paths: Paths) -> NoReturn:
    """Run until complete or interrupted, print the account, and exit."""
    from producer.runs import go_on, open_ledger  # noqa: PLC0415
    from producer.show import display  # noqa: PLC0415

    ledger = open_ledger(paths.out)
    orthanc = ledger.fact("word") == "orthanc"
    ledger.close()
    from backlog.messages import Stage  # noqa: PLC0415

    with display(Stage.INFER if orthanc else Stage.UPLOAD) as shown:
        summary, interrupted = go_on(settings, paths, show=shown.show, say=shown.say)
    for line in _summary_lines(summary):
        click.echo(line)
    click.echo(f"Scores    {paths.scores}")
    click.echo(f"Summary   {paths.summary}")
    if interrupted:
        click.echo(f"Interrupted. Go on with: cxr-backlog resume {paths.out}")
        sys.exit(INTERRUPTED)
    if summary["quarantined"]:
        click.echo(f"Some items need a look: cxr-backlog quarantine {paths.out}")
        sys.exit(QUARANTINED)
    sys.exit(OK)


def _state(paths: Paths, *, complete: bool, running: bool) -> str:
    if complete:
        return "complete"
    if paths.cancel.exists():
        return "cancelled"
    if paths.pause.exists():
        return "paused"
    return "running" if running else "interrupted"


def _summary_lines(summary: dict[str, Any]) -> list[str]:
    lines = [
        f"Run       {summary['run']}" + (f" ({summary['state']})" if "state" in summary else ""),
        f"Total     {summary['total']}",
        f"Reported  {summary['reported']}",
        f"Skipped   {_reasons(summary['skipped'])}",
        f"Quarantined {_reasons(summary['quarantined'])}",
        f"Time      {summary['seconds']:.1f} s, {summary['images_per_second']:.2f} images/s",
        f"Model     {summary['model']} ({summary['engine'] or 'not run yet'})",
    ]
    if not summary["weights_meaningful"]:
        lines.append("          SEEDED WEIGHTS: THE SCORES MEAN NOTHING")
    return lines


def _reasons(counts: dict[str, int]) -> str:
    total = sum(counts.values())
    detail = ", ".join(f"{reason} {count}" for reason, count in counts.items())
    return f"{total} ({detail})" if counts else "0"


def _plan_lines(made: Any) -> list[str]:
    whole = made.read + sum(made.by_listing.values()) == made.total
    about = "" if whole else "about "
    lines = [f"Items     {made.total}" + (f", {made.size / 1e6:,.1f} MB" if made.size else "")]
    if not whole:
        lines.append(f"          headers of {made.read} were read; counts are scaled up from them")
    lines.append(f"To score  {about}{made.would_score}")
    for title, counts in (("Skipped", made.skipped()), ("To look at", made.quarantined())):
        lines.append(f"{title:<9} {about if counts else ''}{sum(counts.values())}")
        lines += [f"          {reason.value} {count}" for reason, count in sorted(counts.items(), key=lambda one: one[0].value)]
    cores = _cores()
    lines.append(f"Time      about {_duration(made.seconds(cores))} with the {cores} cores of this machine")
    return lines


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    main()
