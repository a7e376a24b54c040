"""The command that shows images: the gallery."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import click

from backlog.environment import interface_language
from backlog.model import scores_notice
from backlog.output_file import OutputFile
from producer.cli.options import FORCE, OUT
from producer.cli.output import read_settings, say_beside
from producer.translation import t

_COUNT = click.IntRange(1, 500)


@click.command()
@OUT
@click.option(
    "--finding", default="", help="Images with the highest scores of this finding, as Pneumothorax."
)
@click.option("--flag", default="", help="Only images with this flag, as looks_inverted.")
@click.option("--top", type=_COUNT, help="How many, with --finding or --flag. Default: 50; at most 500.")
@click.option(
    "--sample", type=_COUNT, help="A random sample of this many images; for one run always the same."
)
@click.option(
    "--list",
    "listed",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="The images of a list: one SOP Instance UID a line, or a CSV with sop_instance_uid or study_instance_uid.",
)
@click.option("--names", is_flag=True, help="Show file name, accession number and patient ID too.")
@click.option(
    "--viewer",
    metavar="URL",
    default="",
    help="Where each image's link leads, with {study_instance_uid}, {sop_instance_uid} or {instance} in it."
    " Default: CXR_VIEWER_LINK, else the run's Orthanc.",
)
@click.option(
    "--to",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="The file, or - for standard output. Default: OUT/gallery.html.",
)
@FORCE
def gallery(
    out: Path,
    finding: str,
    flag: str,
    top: int | None,
    sample: int | None,
    listed: Path | None,
    names: bool,
    viewer: str,
    to: Path | None,
    force: bool,
) -> None:
    """Write a page of selected images: radiograph, heat map, scores, and your verdicts.

    The page holds patients' images: it is for you alone (mode 0600). It works offline. Verdicts are kept in the
    browser, and saved as a CSV that 'validate --labels' reads.
    """
    if sample and listed:
        raise click.UsageError("--sample and --list are two ways to choose images: give one")
    if top and (sample or listed):
        raise click.UsageError("--top goes with --finding or --flag, not with --sample or --list")
    if not (finding or flag or sample or listed):
        raise click.UsageError("say which images: --finding, --flag, --sample or --list")
    from contextlib import closing

    from producer.gallery.images import draw
    from producer.gallery.page import About, is_own_gallery, need_page, write_gallery
    from producer.gallery.selection import Wanted, choose, find_flag, find_label
    from producer.run.folder import Paths
    from producer.run.open import inputs_of, open_ledger, pacs_of
    from producer.run.place import pacs_address
    from producer.viewer_link import ViewerLink, check_viewer
    from producer.workers.worker_command import need_worker

    need_worker()
    need_page()
    wanted = Wanted(
        find_label(finding) if finding else "", find_flag(flag) if flag else "", top or 0, sample or 0, listed
    )
    settings, paths = read_settings(), Paths(out.absolute())
    viewer = viewer or settings.viewer_link
    check_viewer(viewer)
    path = to or out / "gallery.html"
    with closing(open_ledger(out)) as ledger:
        inputs = (*inputs_of(ledger, paths), *([listed] if listed else []))
        output = OutputFile(path, inputs=inputs, force=force, private=True)
        output.check(is_own_gallery)
        chosen = choose(ledger, wanted)
        job, address = ledger.get("job"), pacs_address(ledger, paths)
        with (
            closing(pacs_of(ledger, settings, paths)) as pacs,
            click.progressbar(length=len(chosen.rows), label=t("Images"), file=sys.stderr) as bar,
        ):
            pictures = draw(job, chosen.rows, settings, address, lambda: bar.update(1))
            identified: dict[int, dict[str, str]] | None = None
            if names:
                from producer.gallery.names import names_of

                identified, notes = names_of(ledger, settings, paths, pacs, [p.row for p in pictures.shown])
                chosen.notes.extend(notes)
        about = About(job, str(ledger.get("model")), wanted, tuple(chosen.notes))
        write_gallery(
            output,
            about,
            pictures,
            identified,
            ViewerLink.of(viewer, address, settings.pacs_link),
            interface_language(),
        )
        say_beside(path, f"{path}: {len(pictures.shown)} images")
        say_beside(path, "It holds patients' images: only you may read it (mode 0600). Don't pass it on")
        for note in chosen.notes:
            say_beside(path, note)
        if pictures.no_heat_maps:
            say_beside(path, f"without heat maps: {pictures.no_heat_maps}")
        for reason, count in Counter(reason for _, reason in pictures.missing).items():
            say_beside(path, f"{count} images could not be shown: {reason}")
        if notice := scores_notice(meaningful=bool(job["meaningful"])):
            say_beside(path, notice)
