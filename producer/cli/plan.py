"""The command that says what a run would do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backlog.pacs.address import is_dicomweb
from backlog.processes import cores
from producer.cli.options import (
    IMAGE_NAMES,
    IMAGE_TABLE,
    MAKE_UIDS,
    MODALITY,
    ONLY,
    ONLY_BY,
    PACS,
    SINCE,
    SOURCE,
    STUDY_DATE,
    WRAP_IMAGES,
    check_only_by,
    conversion_of,
    selection_of,
)
from producer.cli.output import duration, echo, only_rows, printable, read_settings
from producer.disk import DiskNeed, disk_need
from producer.translation import decimal, t, translated

if TYPE_CHECKING:
    from backlog.outcomes import Reason
    from producer.plan import Plan


@click.command()
@SOURCE
@PACS
@SINCE
@MODALITY
@STUDY_DATE
@ONLY
@ONLY_BY
@click.option("--sample", default=1000, show_default=True, help="Most headers to read; 0 reads every one.")
@MAKE_UIDS
@WRAP_IMAGES
@IMAGE_NAMES
@IMAGE_TABLE
@click.option(
    "--names", is_flag=True, help="Name a few items of each reason; names may hold patients' names."
)
@click.option("--json", "as_json", is_flag=True, help="The account as JSON.")
def plan(
    source: str,
    pacs: str | None,
    since: str,
    modality: tuple[str, ...],
    study_date: str,
    only: Path | None,
    only_by: str,
    sample: int,
    make_uids: bool,
    wrap_images: bool,
    image_names: str,
    image_table: Path | None,
    names: bool,
    as_json: bool,
) -> None:
    """Say what a run would do. Writes nothing."""
    from producer.plan import make_plan

    check_only_by(only, only_by)
    settings = read_settings()
    chosen = selection_of(since, modality, study_date)
    conversion = conversion_of(make_uids, wrap_images, image_names, image_table)
    made = make_plan(
        source,
        settings,
        pacs or (source if is_dicomweb(source) else settings.pacs_url),
        chosen,
        sample,
        conversion,
        only,
        only_by,
    )
    kinds = settings.derived_object_kinds
    address = pacs or (source if is_dicomweb(source) else settings.pacs_url)
    disk = disk_need(
        items=made.total,
        images=made.would_score,
        stored_bytes=made.stored,
        derived=kinds,
        pacs=address,
        runs_folder=settings.runs_folder,
    )
    if as_json:
        about_disk = {
            "folder": str(disk.folder),
            "free": disk.free,
            "needed": disk.here,
            "needed_in_pacs": disk.pacs,
        }
        content = _plan_json(made, names) | {
            "derived_objects": dict.fromkeys(kinds, made.would_score),
            "disk": about_disk,
        }
        click.echo(json.dumps(content, indent=2, ensure_ascii=False))
        return
    for line in _plan_lines(made, names):
        click.echo(line)  # translated already: what an archive calls its files is never taken for a message
    for line in _disk_lines(disk, kinds, made.would_score):
        echo(line)


def _disk_lines(disk: DiskNeed, kinds: list[str], images: int) -> list[str]:
    lines = []
    if kinds:
        count, each = len(kinds) * images, ", ".join(f"{images} {kind}" for kind in kinds)
        lines.append(f"Derived   {count} objects beside the reports: {each}")
    if disk.pacs:
        lines.append(f"PACS      about {_size(disk.pacs)} needed there")
    if disk.free is None:
        lines.append(f"Disk      about {_size(disk.here)} needed here")
    elif disk.enough:
        lines.append(f"Disk      about {_size(disk.here)} needed here, {_size(disk.free)} free")
    else:
        lines.append(f"Disk      NOT ENOUGH: about {_size(disk.here)} needed here, {_size(disk.free)} free")
    return lines


def _size(count: int) -> str:
    return f"{decimal(count / 1e9, 1, ',')} GB" if count >= 1e9 else f"{decimal(count / 1e6, 1, ',')} MB"


def _plan_lines(made: Plan, names: bool) -> list[str]:
    from producer.plan import advice

    whole = made.read + sum(made.by_listing.values()) == made.total
    about = "" if whole else f"{t('about')} "
    size = f", {decimal(made.size / 1e6, 1, ',')} MB" if made.size else ""
    lines = [f"{t('Items'):<9} {made.total}{size}"]
    if not whole:
        scaled = t("headers of {count} were read; counts are scaled up from them").format(count=made.read)
        lines.append(f"          {scaled}")
    if made.only is not None:
        lines += [f"{name:<9} {text}" for name, text in only_rows(made.only)]
        if names:
            lines += [f"          {t('for example')} {printable(value)}" for value in made.not_found]
    lines.append(f"{t('To score'):<9} {about}{made.would_score}")
    flagged = t("of {read} read, flagged {flag} {count}")
    for flag, count in sorted(made.assumed.items(), key=lambda one: one[0].value):
        lines.append(f"          {flagged.format(read=made.eligible, flag=flag.value, count=count)}")
    for title, counts in (("Skipped", made.skipped()), ("To look at", made.quarantined())):
        lines.append(f"{t(title):<9} {about if counts else ''}{sum(counts.values())}")
        for reason, count in sorted(counts.items(), key=lambda one: one[0].value):
            lines.append(f"          {reason.value} {count}")
            lines += [f"            {translated(text)}" for text in advice(made, reason)]
            if reason.value == "body_part_unreadable":
                lines += [f"            {printable(word)!r} {n}" for word, n in _words(made, names)[:20]]
            if names:
                lines += [
                    f"            {t('for example')} {printable(name)}"
                    for name in made.examples.get(reason, [])
                ]
    lines += [f"PACS      {t('NOT FIT')}: {translated(problem)}" for problem in made.pacs_problems]
    with_cores = t("about {time} with the {count} cores of this machine")
    count = cores()
    lines.append(f"{t('Time'):<9} {with_cores.format(time=duration(made.seconds(count)), count=count)}")
    return lines


#: How many items make a body part a term of the archive; what stands in fewer may be a name typed there.
_RECURS = 3


def _words(made: Plan, names: bool) -> list[tuple[str, int]]:
    """Return the body parts that weren't understood; those of a few items only where names may be shown."""
    return [(word, count) for word, count in made.unreadable.most_common() if names or count >= _RECURS]


def _plan_json(made: Plan, names: bool) -> dict[str, object]:
    from producer.plan import advice

    def ending(counts: Mapping[Reason, int]) -> list[dict[str, object]]:
        return [
            {"reason": reason.value, "items": count}
            | ({"advice": "; ".join(said)} if (said := advice(made, reason)) else {})
            | ({"examples": made.examples.get(reason, [])} if names else {})
            for reason, count in sorted(counts.items(), key=lambda one: one[0].value)
        ]

    return {
        "items": made.total,
        "bytes": made.size,
        "headers_read": made.read,
        "estimated": made.read + sum(made.by_listing.values()) != made.total,
        "to_score": made.would_score,
        "flags": {flag.value: count for flag, count in made.assumed.items()},
        "skipped": ending(made.skipped()),
        "quarantined": ending(made.quarantined()),
        "unreadable_body_parts": dict(_words(made, names)),
        "seconds": round(made.seconds(cores()), 1),
        **({"only": made.only} if made.only is not None else {}),
        **({"only_not_found": made.not_found} if made.only is not None and names else {}),
    }
