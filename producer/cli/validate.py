"""The command that judges a run's scores by labels."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

import click

from backlog.broker.job import model_of, preprocessing_of
from backlog.model import not_evaluated
from producer.cli import label_table
from producer.cli.options import OUT, QUARANTINED
from producer.cli.output import echo
from producer.cli.validation_output import print_figures, say_points


@click.command()
@OUT
@label_table.LABELS
@label_table.KEY
@label_table.READERS
@label_table.UNCERTAIN
@label_table.BLANK
@click.option(
    "--by", multiple=True, metavar="COLUMN", help="Compare groups too; may be given more than once."
)
@label_table.NAMES
@click.option(
    "--propose",
    "rule",
    default="",
    metavar="RULE",
    help="Propose operating points: youden, sensitivity=0.9, specificity=0.95 or ppv=0.8.",
)
@label_table.TO
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
    label_table.need_libraries()
    from producer.run.open import open_ledger

    with closing(open_ledger(out)) as ledger:
        job = ledger.get("job")
        labels = label_table.read_table(table, key, readers, by)
        joined = label_table.join_labels(ledger, out, table, labels, names, by)
        from producer.validation.files import ResultFolder, write_operating_points, write_validation_files
        from producer.validation.no_points import without_point
        from producer.validation.page import About
        from producer.validation.validate import enough, figures, half_joined

        uncertain, blank = label_table.choices(labels, uncertain, blank)
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
            tuple(not_evaluated(model_of(job))),
        )
        files = ResultFolder(to or out / "validation", (table, *([names] if names else [])))
        write_validation_files(files, about, joined, found)
        if rule:
            count = write_operating_points(files, about, found)
            say_points(files, count, rule, without_point(found, about.not_evaluated))
    for note in labels.notes:
        echo(f"Labels    {note}")
    print_figures(about, joined, found)
    echo(f"Page      {files.folder / 'validation.html'}")
    if not (some := enough(found)):
        echo("Too little to judge by: no finding has 20 positives and 20 negatives.", err=True)
    if not (half := half_joined(joined)):
        echo("Too little to judge by: less than half of the run and of the table joined.", err=True)
    if not (some and half):
        sys.exit(QUARANTINED)


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
