"""What `validate` prints: the figures, and which findings have an operating point."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from backlog.model import scores_notice
from producer.cli.label_table import interval
from producer.cli.output import echo
from producer.translation import t, translated

if TYPE_CHECKING:
    from producer.validation.files import ResultFolder
    from producer.validation.join import Joined
    from producer.validation.no_points import NoPoint
    from producer.validation.page import About
    from producer.validation.validate import FindingFigures


def say_points(files: ResultFolder, count: int, rule: str, without: dict[NoPoint, list[str]]) -> None:
    """Say where the proposed points are, and why findings have none.

    Parameters
    ----------
    files
        Where the results are.
    count
        How many findings have a point.
    rule
        How points are proposed.
    without
        Findings without one, by the reason.
    """
    from producer.validation.no_points import NoPoint

    if count:
        echo(f"Points    {files.folder / 'operating-points.json'} ({count} findings, {rule})")
    else:
        echo("No operating point can be proposed.", err=True)
    for why, labels in without.items():
        names = ", ".join(labels)
        if why is NoPoint.NOT_EVALUATED:
            echo(f"No point, since the model was not trained on them: {names}", err=not count)
        elif why is NoPoint.FEW:
            echo(f"No point, with fewer than 20 positives or 20 negatives: {names}", err=not count)
        elif why is NoPoint.UNREACHED:
            echo(f"No point, since no threshold reaches {rule}: {names}", err=not count)
        else:
            echo(f"No point, since the threshold would be 0 or 1: {names}", err=not count)


def print_figures(about: About, joined: Joined, found: list[FindingFigures]) -> None:
    """Print what was joined, and the figures of each finding.

    Parameters
    ----------
    about
        What was compared.
    joined
        Labels beside scores.
    found
        The figures.
    """
    from producer.validation.page import reason_said

    counts = t("{keys} of {rows} rows; {images} of {reported} reported images").format(
        keys=len(joined.keys), rows=joined.rows, images=joined.images, reported=joined.reported
    )
    click.echo(f"{t('Joined'):<9} {counts}")
    for reason, count in joined.reasons.items():
        said = reason_said(translated, reason)
        click.echo(f"          {t('{count} rows: {reason}').format(count=count, reason=said)}")
    click.echo(f"{t('Finding'):<28} {t('positive'):>8} {t('negative'):>8}  {t('AUC (95 %)')}")
    for one in found:
        area = interval(one.auc) if one.auc else "-"
        few = "" if one.enough else f"  {t('fewer than 20 of one kind')}"
        if one.label in about.not_evaluated:
            few = f"  {t('not evaluated by this model')}"
        click.echo(f"{one.label:<28} {one.positives:>8} {one.negatives:>8}  {area}{few}")
    if notice := scores_notice(meaningful=about.meaningful):
        click.echo(t(notice))
