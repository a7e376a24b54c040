"""Commands that do the work: plan, run, resume, pause, cancel, demo."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from backlog.errors import UsageError
from producer.cli.output import MODALITY, OUT, PACS, SINCE, SOURCE, STUDY_DATE, cores, read_settings, work


@click.command()
@SOURCE
@PACS
@SINCE
@MODALITY
@STUDY_DATE
@click.option("--sample", default=1000, show_default=True, help="Most headers to read; 0 reads every one.")
def plan(source: str, pacs: str | None, since: str, modality: str, study_date: str, sample: int) -> None:
    """Say what a run would do. Writes nothing."""
    from producer.plan import make_plan

    settings = read_settings()
    chosen = _selection(since, modality, study_date)
    made = make_plan(source, settings, pacs or settings.pacs_url, chosen, sample)
    for line in _plan_lines(made):
        click.echo(line)


@click.command()
@SOURCE
@PACS
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="The run's folder. Default: a new one here.",
)
@click.option(
    "--workers", type=click.IntRange(1, 256), help="Inference processes. Default: one for each core."
)
@SINCE
@MODALITY
@STUDY_DATE
@click.option("--read-back", is_flag=True, help="Read each report back after storing it, and compare.")
@click.option(
    "--companions",
    metavar="KINDS",
    help="What to store beside each report, by comma: capture, pdf. Instead of CXR_COMPANIONS.",
)
@click.option(
    "--predecessor",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="OUT",
    help="An earlier run's folder: the new reports refer to its reports of the same images.",
)
def run(
    source: str,
    pacs: str | None,
    out: Path | None,
    workers: int | None,
    since: str,
    modality: str,
    study_date: str,
    read_back: bool,
    companions: str | None,
    predecessor: Path | None,
) -> None:
    """Run the model over a backlog.

    With CXR_REDIS_URL set, only dispatches and watches, and workers elsewhere do the work; without, starts a private
    Redis and the workers itself, and stops them at the end.
    """
    from producer.run.create import create
    from producer.run.folder import Paths, new_folder

    settings = read_settings()
    if companions is not None:
        settings = replace(settings, companions=companions)
    chosen = _selection(since, modality, study_date)
    paths = Paths(out.absolute() if out else new_folder("cxr-run"))
    address = pacs or settings.pacs_url or str(paths.pacs)
    try:
        create(
            source,
            settings,
            address,
            paths,
            chosen,
            workers=workers or cores(),
            read_back=read_back,
            predecessor=predecessor,
        )
    except BaseException:
        if out is None:
            with suppress(OSError):
                paths.out.rmdir()  # nothing was begun in it
        raise
    work(settings, paths)


@click.command()
@OUT
def resume(out: Path) -> None:
    """Go on with an interrupted, paused or cancelled run."""
    from producer.run.folder import Paths, is_running, open_ledger

    paths = Paths(out.absolute())
    open_ledger(paths.out).close()
    paused = paths.pause.exists()
    paths.pause.unlink(missing_ok=True)
    paths.cancel.unlink(missing_ok=True)
    if paused and is_running(paths):
        click.echo("The run goes on.")
        return
    work(read_settings(), paths)


@click.command()
@OUT
def pause(out: Path) -> None:
    """Send nothing new; what is in flight ends. Go on with 'resume'."""
    from producer.run.folder import Paths, open_ledger

    open_ledger(out).close()
    Paths(out).pause.touch()
    click.echo(f"Paused. Go on with: cxr-backlog resume {out}")


@click.command()
@OUT
def cancel(out: Path) -> None:
    """Stop the run, here and on every worker. What was reported stays; 'resume' takes it up again."""
    from producer.run.folder import Paths, open_ledger

    ledger = open_ledger(out)
    run_id = ledger.fact("job")["run"]
    ledger.close()
    Paths(out).cancel.touch()
    settings = read_settings()
    if settings.redis_url:
        from backlog.broker.claims import Claims

        Claims(settings.broker).set_state(run_id, "cancelled")
    click.echo("Cancelled. What was reported stays; see 'cxr-backlog retract' to take it back.")


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the demo. Default: a new one here.",
)
@click.option(
    "--count", type=click.IntRange(1, 10_000), default=24, show_default=True, help="Images to make."
)
def demo(out: Path | None, count: int) -> None:
    """Run the main job on synthetic radiographs that are made first.

    Uses the released weights; where they can't be had, and only here, goes on with seeded weights and says so.
    """
    from producer.demo.backlog import write_backlog
    from producer.run.create import Selection, create
    from producer.run.folder import Paths, new_folder
    from producer.run.local_servers import need_worker, prepare_model

    need_worker()

    settings = read_settings()
    if settings.redis_url:
        raise UsageError("the demo starts its own Redis and workers: unset CXR_REDIS_URL")
    out = out.absolute() if out else new_folder("cxr-demo")
    out.mkdir(parents=True, exist_ok=True)
    backlog = out / "backlog.zip"
    click.echo(f"Making {count} synthetic radiographs …")
    made = write_backlog(backlog, count=count)
    click.echo(f"{backlog}: {made} files")
    if not settings.weights:
        try:
            prepare_model()
        except UsageError as error:
            click.echo(f"{error}\nThe demo goes on with SEEDED WEIGHTS: ITS SCORES MEAN NOTHING.")
            settings = replace(settings, weights="seeded")
    paths = Paths(out / "run")
    create(str(backlog), settings, str(paths.pacs), paths, Selection(), workers=cores())
    work(settings, paths)


def _selection(since: str, modality: str, study_date: str) -> Any:
    from producer.run.create import Selection

    if since:
        try:
            since = f"{datetime.fromisoformat(since).astimezone(UTC):%Y%m%dT%H%M%S}"  # Orthanc's clock is UTC
        except ValueError:
            raise click.BadParameter(
                f"{since!r} is no date; write it as 2024-12-31 or 2024-12-31T08:00", param_hint="--since"
            ) from None
    # A query that no series can match scores nothing, and looks like a run that found nothing to do.
    modalities = [one.strip().upper() for one in re.split(r"[,\\]", modality) if one.strip()]
    for one in modalities:
        if not re.fullmatch(r"[A-Z0-9_ ]{1,16}", one):
            raise click.BadParameter(
                f"{one!r} is no modality; write it as CR, or CR,DX", param_hint="--modality"
            )
    if study_date and not _is_range(study_date):
        raise click.BadParameter(
            f"{study_date!r} is no date; write it as 20240101, 20240101-20241231, 20240101- or -20241231",
            param_hint="--study-date",
        )
    return Selection(since, "\\".join(modalities), study_date)


def _is_range(study_date: str) -> bool:
    """Whether a text is one date, or a range of two of which one may be missing, as DICOM writes them."""
    first, dash, last = study_date.partition("-")
    for date in (first, last):
        try:
            if date and not (re.fullmatch("[0-9]{8}", date) and datetime.strptime(date, "%Y%m%d")):  # noqa: DTZ007
                return False
        except ValueError:
            return False
    return bool(first or last) and bool(first or dash) and not (first and last and last < first)


def _plan_lines(made: Any) -> list[str]:
    whole = made.read + sum(made.by_listing.values()) == made.total
    about = "" if whole else "about "
    lines = [f"Items     {made.total}" + (f", {made.size / 1e6:,.1f} MB" if made.size else "")]
    if not whole:
        lines.append(f"          headers of {made.read} were read; counts are scaled up from them")
    lines.append(f"To score  {about}{made.would_score}")
    for title, counts in (("Skipped", made.skipped()), ("To look at", made.quarantined())):
        lines.append(f"{title:<9} {about if counts else ''}{sum(counts.values())}")
        lines += [
            f"          {reason.value} {count}"
            for reason, count in sorted(counts.items(), key=lambda one: one[0].value)
        ]
    count = cores()
    lines.append(f"Time      about {_duration(made.seconds(count))} with the {count} cores of this machine")
    return lines


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
