"""The commands that write files about a run."""

from __future__ import annotations

from pathlib import Path

import click

from producer.cli.options import OUT


@click.command()
@OUT
@click.option(
    "--format", "form", type=click.Choice(["csv", "jsonl", "parquet"]), default="csv", show_default=True
)
@click.option(
    "--to", type=click.Path(path_type=Path, dir_okay=False), help="The file. Default: OUT/scores.FORMAT."
)
def export(out: Path, form: str, to: Path | None) -> None:
    """Write the scores that a run has so far."""
    from producer.results.exports import WRITERS
    from producer.run.open import open_ledger

    ledger = open_ledger(out)
    path = to or out / f"scores.{form}"
    WRITERS[form](ledger, path)
    click.echo(f"{path}: {ledger.tally().reported} rows")
    ledger.close()


@click.command()
@OUT
@click.option(
    "--baseline",
    type=click.Path(path_type=Path, file_okay=False),
    help="An earlier run's folder: have the scores drifted?",
)
@click.option(
    "--groups",
    type=click.Path(path_type=Path, dir_okay=False),
    help="CSV of study_instance_uid,group: drift by site or device.",
)
@click.option(
    "--orthanc",
    metavar="URL",
    default="",
    help="Where a browser finds the Orthanc. Default: where the run did.",
)
@click.option(
    "--to", type=click.Path(path_type=Path, dir_okay=False), help="The file. Default: OUT/summary.html."
)
def summary(out: Path, baseline: Path | None, groups: Path | None, orthanc: str, to: Path | None) -> None:
    """Write the summary page of a run, at any time; with --baseline, compare its scores with an earlier run's."""
    from producer.page.page import drift_line, write_page
    from producer.results.audit_log import verify as follow
    from producer.run.folder import Paths
    from producer.run.open import open_ledger

    if groups and not baseline:
        raise click.UsageError("--groups compares with a run: it needs --baseline")
    ledger, earlier = open_ledger(out), open_ledger(baseline) if baseline else None
    audit, path = Paths(out).audit, to or Paths(out).page
    followed = follow(ledger, audit) if audit.exists() else None
    found = write_page(ledger, path, baseline=earlier, groups=groups, orthanc=orthanc, audit=followed)
    if found.comparison:
        click.echo(drift_line(found.comparison))
    click.echo(f"Page      {path}")
    if followed and not followed.right:
        click.echo(
            f"Audit     the audit's line {followed.broken} is wrong: see cxr-backlog audit verify {out}",
            err=True,
        )
