"""The command that compares two runs on the same images."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backlog.environment import interface_language
from backlog.model import scores_notice
from producer.cli import label_table
from producer.cli.output import echo
from producer.translation import decimal, t

if TYPE_CHECKING:
    from producer.validation.compare import Comparison, FindingDifference


@click.command()
@click.argument("first", type=click.Path(path_type=Path, file_okay=False))
@click.argument("second", type=click.Path(path_type=Path, file_okay=False))
@label_table.LABELS
@label_table.KEY
@label_table.READERS
@label_table.UNCERTAIN
@label_table.BLANK
@label_table.NAMES
@label_table.TO
def compare(
    first: Path,
    second: Path,
    table: Path | None,
    key: str,
    readers: str | None,
    uncertain: str | None,
    blank: str | None,
    names: Path | None,
    to: Path | None,
) -> None:
    """Compare two runs on the same images: differences, changed decisions, and with --labels the AUC of each."""
    label_table.need_libraries()
    from producer.run.open import open_ledger
    from producer.validation.compare import LabelsUsed, against_labels
    from producer.validation.compare import compare as compare_runs
    from producer.validation.files import ResultFolder
    from producer.validation.metrics import as_json
    from producer.validation.page import is_own_page, write_comparison

    with closing(open_ledger(first)) as one, closing(open_ledger(second)) as other:
        if table is None:
            found = compare_runs(one, other)
        else:
            labels = label_table.read_table(table, key, readers)
            uncertain, blank = label_table.choices(labels, uncertain, blank)
            found = compare_runs(one, other)
            mine, theirs = (
                label_table.join_labels(ledger, out, table, labels, names)
                for ledger, out in ((one, first), (other, second))
            )
            used = LabelsUsed(table.name, labels.form, uncertain, blank, tuple(labels.notes))
            found = against_labels(found, mine, theirs, used)
    files = ResultFolder(to or second / "comparison", tuple(one for one in (table, names) if one))
    content = {"format": "cxr-backlog comparison 1"} | as_json(found)
    files.write("comparison.json", json.dumps(content, indent=2) + "\n")
    write_comparison(files.file("comparison.html", is_own_page), found, interface_language())
    counts = t("{both} in both, {first} and {second} in one only")
    counts = counts.format(both=found.common, first=found.only_first, second=found.only_second)
    click.echo(f"{t('Images'):<9} {counts}")
    for finding in found.findings:
        click.echo(f"{finding.label:<28} {_differences(finding)}")
    _print_labels(found)
    if notice := scores_notice(meaningful=found.meaningful):
        click.echo(t(notice))
    click.echo(f"{t('Page'):<9} {files.folder / 'comparison.html'}")


def _differences(found: FindingDifference) -> str:
    """Return what a line says of one finding in two runs."""
    if found.mean_difference is None or found.largest is None:
        return t("not evaluated")
    changed = (found.to_present or 0) + (found.to_absent or 0)
    return (
        f"{t('mean')} {decimal(found.mean_difference.value, 4, '+')}"
        f"  {t('largest')} {decimal(found.largest, 4)}  {t('changed')} {changed}"
    )


def _print_labels(found: Comparison) -> None:
    """Print the AUC of each run where there are labels."""
    if found.labels is None:
        return
    for note in found.labels.notes:
        echo(f"Labels    {note}")
    counts = t("{units} of {rows} rows have a score in both runs")
    click.echo(f"{t('Joined'):<9} {counts.format(units=found.labels.units, rows=found.labels.rows)}")
    heads = f"{t('AUC of the first'):<20} {t('of the second'):<20} {t('difference (95 %)')}"
    click.echo(f"{t('Finding'):<28} {t('positive'):>8} {t('negative'):>8}  {heads}")
    for one in found.findings:
        if one.positives is None or one.negatives is None:
            continue  # the table says nothing of it
        areas = t("fewer than 20 of one kind")
        if one.auc_first and one.auc_second and one.auc_difference:
            first, second = (label_table.interval(area) for area in (one.auc_first, one.auc_second))
            areas = f"{first:<20} {second:<20} {label_table.interval(one.auc_difference, '+')}"
        click.echo(f"{one.label:<28} {one.positives:>8} {one.negatives:>8}  {areas}")
