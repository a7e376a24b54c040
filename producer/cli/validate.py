"""The commands that judge scores: against labels, and against another run's."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backlog.environment import interface_language
from backlog.model import scores_notice
from producer.cli.options import OUT, QUARANTINED
from producer.cli.output import echo, read_settings
from producer.translation import decimal, t, translated

if TYPE_CHECKING:
    from producer.ledger.ledger import Ledger
    from producer.validation.compare import FindingDifference
    from producer.validation.files import ResultFolder
    from producer.validation.join import Joined
    from producer.validation.label_values import Labels
    from producer.validation.metrics import Interval
    from producer.validation.validate import FindingFigures

_LABELS = click.option(
    "--labels",
    "table",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="CSV of labels: one column for each finding (1, 0, -1, blank), NIH's 'Finding Labels', one row for"
    " each reader, or the verdicts of 'gallery'.",
)
_KEY = click.option(
    "--key", default="", metavar="COLUMN=KIND", help="Which column says which image a row is about."
)
_READERS = click.option(
    "--readers",
    type=click.Choice(["majority", "any"]),
    default=None,
    help="How several readers of one image count.",
)
_NAMES = click.option(
    "--names",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A file of 'export --names': needed to join by accession number, patient or series.",
)
_CHOICES = click.Choice(["ignore", "positive", "negative"])
_TO = click.option(
    "--to", type=click.Path(path_type=Path, file_okay=False), help="Folder of the results. Default: in OUT."
)


@click.command()
@OUT
@_LABELS
@_KEY
@_READERS
@click.option("--uncertain", type=_CHOICES, help="What a label of -1 counts as; needed where there are any.")
@click.option("--blank", type=_CHOICES, help="What an empty label counts as; needed where there are any.")
@click.option(
    "--by", multiple=True, metavar="COLUMN", help="Compare groups too; may be given more than once."
)
@_NAMES
@click.option(
    "--propose",
    "rule",
    default="",
    metavar="RULE",
    help="Propose operating points: youden, sensitivity=0.9, specificity=0.95 or ppv=0.8.",
)
@_TO
def validate(
    out: Path,
    table: Path | None,
    key: str,
    readers: str | None,
    uncertain: str | None,
    blank: str | None,
    by: tuple[str, ...],
    names: Path | None,
    rule: str,
    to: Path | None,
) -> None:
    """Compare a run's scores with labels: AUC, sensitivity, specificity, calibration, with intervals.

    Writes validation.json, validation.html and, with --propose, operating-points.json. Exit status 3 where too little
    could be joined, or no finding has 20 positives and 20 negatives.
    """
    if table is None:
        raise click.UsageError("--labels FILE is needed: the table to compare with")
    _check_rule(rule)
    _need_libraries()
    from producer.run.open import open_ledger

    with closing(open_ledger(out)) as ledger:
        job = ledger.get("job")
        labels, joined = _join(ledger, out, table, key, readers, names, by)
        from backlog.broker.messages import preprocessing_of
        from producer.validation.files import ResultFolder, write_operating_points, write_validation_files
        from producer.validation.label_values import BLANK, UNCERTAIN
        from producer.validation.page import About
        from producer.validation.validate import enough, figures

        uncertain = _chosen("--uncertain", uncertain, labels.count(UNCERTAIN), "uncertain (-1)")
        blank = _chosen("--blank", blank, labels.count(BLANK), "blank")
        used = job.get("operating_points", {}).get("thresholds", {})
        found = figures(joined, uncertain=uncertain, blank=blank, rule=rule, used=used)
        about = About(
            job["run"],
            str(ledger.get("model")),
            job["weights"],
            preprocessing_of(job),
            bool(job["meaningful"]),
            table.name,
            labels.form,
            uncertain,
            blank,
            rule,
            tuple(labels.notes),
        )
        files = ResultFolder(to or out / "validation", (table, *([names] if names else [])))
        write_validation_files(files, about, joined, found)
        if rule:
            _say_points(files, write_operating_points(files, about, found), rule)
    for note in labels.notes:
        echo(f"Labels    {note}")
    _print(about.meaningful, joined, found)
    echo(f"Page      {files.folder / 'validation.html'}")
    if not enough(joined, found):
        echo(
            "Too little to judge by: less than half of the run and of the table joined, or no finding has 20 positives"
            " and 20 negatives.",
            err=True,
        )
        sys.exit(QUARANTINED)


@click.command()
@click.argument("first", type=click.Path(path_type=Path, file_okay=False))
@click.argument("second", type=click.Path(path_type=Path, file_okay=False))
@_LABELS
@_KEY
@_READERS
@_NAMES
@_TO
def compare(
    first: Path,
    second: Path,
    table: Path | None,
    key: str,
    readers: str | None,
    names: Path | None,
    to: Path | None,
) -> None:
    """Compare two runs on the same images: differences, changed decisions, and with --labels the AUC of each."""
    _need_libraries()
    from producer.run.open import open_ledger
    from producer.validation.compare import auc_differences, with_auc_differences
    from producer.validation.compare import compare as compare_runs
    from producer.validation.files import ResultFolder
    from producer.validation.metrics import as_json
    from producer.validation.page import is_own_page, write_comparison

    with closing(open_ledger(first)) as one, closing(open_ledger(second)) as other:
        found = compare_runs(one, other)
        if table is not None:
            joined = [
                _join(ledger, out, table, key, readers, names, ())[1]
                for ledger, out in ((one, first), (other, second))
            ]
            found = with_auc_differences(found, auc_differences(*joined))
    files = ResultFolder(to or second / "comparison", (table,) if table else ())
    content = {"format": "cxr-backlog comparison 1"} | as_json(found)
    files.write("comparison.json", json.dumps(content, indent=2) + "\n")
    write_comparison(files.file("comparison.html", is_own_page), found, interface_language())
    counts = t("{both} in both, {first} and {second} in one only")
    counts = counts.format(both=found.common, first=found.only_first, second=found.only_second)
    click.echo(f"{t('Images'):<9} {counts}")
    for finding in found.findings:
        click.echo(f"{finding.label:<28} {_differences(finding)}")
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


def _need_libraries() -> None:
    """Refuse at once where the extra is not installed. Imported are its 150 MB only when a large table was read."""
    from importlib.util import find_spec

    for name in ("jinja2", "scipy", "sklearn"):
        if find_spec(name) is None:
            from backlog.errors import UsageError

            raise UsageError(f"this command needs {name}: install cxr-backlog[validate]")


def _chosen(option: str, choice: str | None, count: int, what: str) -> str:
    """Return what such labels count as: never decided in silence where there are any."""
    if choice is None and count:
        raise click.UsageError(
            f"{count} labels are {what}: choose with {option} whether they are ignored,"
            " or count as positive or negative"
        )
    return choice or "ignore"


def _check_rule(rule: str) -> None:
    from producer.validation.rules import parse_rule

    try:
        if rule:
            parse_rule(rule)
    except ValueError:
        raise click.BadParameter(
            f"{rule!r} is no rule; write youden, sensitivity=0.9, specificity=0.95 or ppv=0.8",
            param_hint="--propose",
        ) from None


def _join(
    ledger: Ledger,
    out: Path,
    table: Path,
    key: str,
    readers: str | None,
    names: Path | None,
    by: tuple[str, ...],
) -> tuple[Labels, Joined]:
    from producer.run.folder import Paths
    from producer.run.open import source_of
    from producer.validation.join import join
    from producer.validation.labels import columns_of, read_labels

    there = columns_of(table)
    labels = read_labels(table, key=key, readers=readers or "", by=[name for name in by if name in there])
    joined = join(
        ledger,
        labels,
        source=lambda: source_of(ledger, read_settings(), Paths(out.absolute())),
        names=names,
        by=by,
    )
    if not joined.keys:
        from backlog.errors import UsageError

        raise UsageError(
            f"{table}: none of its {joined.rows} rows is about an image of this run (joined by {labels.key.value});"
            " another column may tell more: --key COLUMN=KIND"
        )
    return labels, joined


def _say_points(files: ResultFolder, count: int, rule: str) -> None:
    if count:
        echo(f"Points    {files.folder / 'operating-points.json'} ({count} findings, {rule})")
    else:
        echo("No operating point can be proposed: no finding has 20 positives and 20 negatives.", err=True)


def _interval(found: Interval) -> str:
    return f"{decimal(found.value, 3)} ({decimal(found.low, 3)}-{decimal(found.high, 3)})"


def _print(meaningful: bool, joined: Joined, found: list[FindingFigures]) -> None:
    counts = t("{keys} of {rows} rows; {images} of {reported} reported images").format(
        keys=len(joined.keys), rows=joined.rows, images=joined.images, reported=joined.reported
    )
    click.echo(f"{t('Joined'):<9} {counts}")
    for reason, count in joined.reasons.items():
        click.echo(f"          {t('{count} rows: {reason}').format(count=count, reason=translated(reason))}")
    click.echo(f"{t('Finding'):<28} {t('positive'):>8} {t('negative'):>8}  {t('AUC (95 %)')}")
    for one in found:
        area = _interval(one.auc) if one.auc else "-"
        few = "" if one.enough else f"  {t('fewer than 20 of one kind')}"
        click.echo(f"{one.label:<28} {one.positives:>8} {one.negatives:>8}  {area}{few}")
    if notice := scores_notice(meaningful=meaningful):
        click.echo(t(notice))
