"""The commands that do the work: run, resume."""

from __future__ import annotations

import sys
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import click

from backlog.errors import UsageError
from backlog.files import remove
from backlog.pacs.address import is_dicomweb
from backlog.processes import cores
from producer.cli.options import (
    BETWEEN,
    COPY,
    FOLLOW,
    IMAGE_NAMES,
    IMAGE_TABLE,
    INTERRUPTED,
    MAKE_UIDS,
    MODALITY,
    NOTIFY,
    ONLY,
    ONLY_BY,
    OUT,
    PACS,
    SINCE,
    SOURCE,
    STOP_WHEN_QUARANTINED,
    STUDY_DATE,
    TIME_ZONE,
    WRAP_IMAGES,
    check_only_by,
    conversion_of,
    selection_of,
    with_schedule,
)
from producer.cli.output import agree_on_copy, echo, need_runner, read_settings, work
from producer.run.folder import Paths

DETACH = click.option("--detach", is_flag=True, help="Leave the work to the runner, and return at once.")


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
@ONLY
@ONLY_BY
@click.option(
    "--rescore",
    is_flag=True,
    help="Score also images that have their report already; without this option their scores are read from the report.",
)
@click.option("--read-back", is_flag=True, help="Read each report back after storing it, and compare.")
@click.option(
    "--derived-objects",
    metavar="KINDS",
    help="What to store beside each report, by comma: capture, pdf, pdf-picture. Instead of CXR_DERIVED_OBJECTS.",
)
@click.option(
    "--predecessor",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="OUT",
    help="An earlier run's folder: the new reports refer to its reports of the same images.",
)
@click.option(
    "--operating-points",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE",
    help="Which score on each finding counts as present: a file of 'validate --propose'.",
)
@click.option(
    "--label-findings",
    is_flag=True,
    help="Label the studies in Orthanc (1.12 or later) with the findings that are present, as ai-pneumothorax.",
)
@click.option(
    "--weights",
    metavar="NAME",
    default="",
    help="What scores: a model's name, 'seeded', or the first digits of the weights' SHA-256. Default: CXR_WEIGHTS.",
)
@click.option(
    "--deliver",
    metavar="NAME",
    help="The DICOM modality that each report is also sent to (C-STORE). Default: the one that the images come from.",
)
@click.option(
    "--no-delivery",
    is_flag=True,
    help="Send reports to no modality, also not to the one that sent the images.",
)
@click.option(
    "--keep", is_flag=True, help="Keep the images that a modality sent in Orthanc after they are scored."
)
@MAKE_UIDS
@WRAP_IMAGES
@IMAGE_NAMES
@IMAGE_TABLE
@FOLLOW
@BETWEEN
@TIME_ZONE
@STOP_WHEN_QUARANTINED
@NOTIFY
@DETACH
def run(
    source: str,
    pacs: str | None,
    out: Path | None,
    workers: int | None,
    since: str,
    modality: tuple[str, ...],
    study_date: str,
    only: Path | None,
    only_by: str,
    rescore: bool,
    read_back: bool,
    derived_objects: str | None,
    predecessor: Path | None,
    operating_points: Path | None,
    label_findings: bool,
    weights: str,
    deliver: str | None,
    no_delivery: bool,
    keep: bool,
    make_uids: bool,
    wrap_images: bool,
    image_names: str,
    image_table: Path | None,
    follow: bool,
    between: str | None,
    time_zone: str | None,
    stop_when_quarantined: str | None,
    notify: str | None,
    detach: bool,
) -> None:
    """Run the model over a backlog.

    With CXR_REDIS_URL set, this command only sends the work and watches it, and workers elsewhere do it. Without, it
    starts a private Redis and workers of its own, and stops them at the end.
    """
    from producer.run.create import create
    from producer.run.delivery import Delivery
    from producer.run.folder import new_folder

    if follow and detach:
        raise click.UsageError(
            "the runner ends one run before it begins the next: leave --detach or --follow out"
        )
    check_only_by(only, only_by)
    if deliver is not None and (no_delivery or not deliver):
        raise click.UsageError("--deliver names a modality, and goes with no --no-delivery")
    settings = read_settings()
    if derived_objects is not None:
        settings = replace(settings, derived_objects=derived_objects)
    settings = with_schedule(settings, between, time_zone, stop_when_quarantined)
    if notify is not None:
        settings = replace(settings, notify=notify)
    if detach:
        _refuse_notify(notify)
        need_runner(settings)
    chosen = selection_of(since, modality, study_date)
    paths = Paths(out.absolute() if out else new_folder("cxr-run"))
    given = source if is_dicomweb(source) else settings.pacs_url
    address = pacs or given or str(paths.pacs)
    day, root = None, paths.out
    try:
        if follow:
            from producer.execution.days import first_day

            paths, day = first_day(root, settings)
        create(
            source,
            settings,
            address,
            paths,
            chosen,
            workers=workers or cores(),
            rescore=rescore,
            read_back=read_back,
            predecessor=predecessor,
            operating_points=operating_points,
            label_findings=label_findings,
            only=only,
            only_by=only_by,
            conversion=conversion_of(make_uids, wrap_images, image_names, image_table),
            weights=weights,
            delivery=Delivery("" if no_delivery else deliver, keep),
            follow=day,
        )
    except BaseException:
        if out is None:
            with suppress(OSError):
                root.rmdir()  # nothing was begun in it
        raise
    if detach:
        echo(f"Queued. See it: cxr-backlog runs; cxr-backlog status {paths.out}")
        return
    work(settings, paths)


@click.command()
@OUT
@COPY
@NOTIFY
@DETACH
@click.option("--unless-held", is_flag=True, hidden=True, help="Not when it is paused, cancelled or stopped.")
def resume(out: Path, copy: bool, notify: str | None, detach: bool, unless_held: bool) -> None:
    """Go on with an interrupted, paused or cancelled run."""
    from producer.run.folder import is_running
    from producer.run.open import open_ledger

    paths = Paths(out.absolute())
    held = (paths.pause, paths.cancel, paths.stopped)
    with closing(open_ledger(paths.out)) as ledger:
        agree_on_copy(ledger, paths, copy)
    if unless_held:  # the runner's, who looked before: a user may have been faster
        if any(path.exists() for path in held):
            sys.exit(INTERRUPTED)
        work(read_settings(), paths)
    if detach:
        _refuse_notify(notify)
        need_runner(read_settings())
        remove(*held, paths.runner)
        echo(f"Queued. See it: cxr-backlog runs; cxr-backlog status {paths.out}")
        return
    paused = paths.pause.exists()
    remove(paths.pause, paths.cancel)
    if paused and is_running(paths):
        echo("The run goes on.")
        return
    settings = read_settings() if notify is None else replace(read_settings(), notify=notify)
    work(settings, paths, copy=True)


def _refuse_notify(notify: str | None) -> None:
    if notify is not None:
        raise UsageError("the runner's own CXR_NOTIFY says whom it tells: leave --notify out")
