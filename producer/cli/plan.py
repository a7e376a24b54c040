"""The command that says what a run would do."""

from __future__ import annotations

from typing import Any

import click

from producer.cli.options import MODALITY, PACS, SINCE, SOURCE, STUDY_DATE, selection_of
from producer.cli.output import cores, read_settings


@click.command()
@SOURCE
@PACS
@SINCE
@MODALITY
@STUDY_DATE
@click.option("--sample", default=1000, show_default=True, help="Most headers to read; 0 reads every one.")
def plan(
    source: str, pacs: str | None, since: str, modality: tuple[str, ...], study_date: str, sample: int
) -> None:
    """Say what a run would do. Writes nothing."""
    from producer.plan import make_plan

    settings = read_settings()
    chosen = selection_of(since, modality, study_date)
    made = make_plan(source, settings, pacs or settings.pacs_url, chosen, sample)
    for line in _plan_lines(made):
        click.echo(line)


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
    lines += [f"PACS      NOT FIT: {problem}" for problem in made.pacs_problems]
    count = cores()
    lines.append(f"Time      about {_duration(made.seconds(count))} with the {count} cores of this machine")
    return lines


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
