"""The commands that write files about a run."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from backlog.environment import interface_language
from backlog.model import scores_notice
from backlog.output_file import OutputFile
from producer.cli.options import FORCE, OUT
from producer.cli.output import echo, read_settings, say_beside
from producer.translation import t


@click.command()
@OUT
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "jsonl", "parquet"]),
    default="csv",
    show_default=True,
    help="Kind of file; parquet needs the extra of that name.",
)
@click.option(
    "--names",
    is_flag=True,
    help="Add file name, accession number, patient ID and series: the file identifies patients (mode 0600).",
)
@click.option("--meta", is_flag=True, help="With --names: also sex, age, view, device, date and institution.")
@click.option("--excel", is_flag=True, help="CSV as Excel opens it where numbers have a decimal comma.")
@click.option(
    "--to",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="The file, or - for standard output. Default: OUT/scores.FORMAT.",
)
@FORCE
def export(out: Path, form: str, names: bool, meta: bool, excel: bool, to: Path | None, force: bool) -> None:
    """Write the scores that a run has so far."""
    from producer.results.exports import OWN, WRITERS, write_scores
    from producer.run.folder import Paths
    from producer.run.open import inputs_of, open_ledger

    if meta and not names:
        raise click.UsageError("--meta adds to what --names writes: give both")
    if names:
        if excel or form != "csv":
            raise click.UsageError("--names writes CSV; it doesn't go together with --format or --excel")
        _export_names(out, to or out / "scores-names.csv", meta=meta, force=force)
        return
    if excel and form != "csv":
        raise click.UsageError(f"--excel is a form of csv; it doesn't go together with --format {form}")
    ledger = open_ledger(out)
    path = to or out / ("scores-excel.csv" if excel else f"scores.{form}")
    output = OutputFile(path, inputs=inputs_of(ledger, Paths(out)), force=force)
    output.check(OWN[form])
    if excel:
        write_scores(ledger, output, excel=True)
    else:
        WRITERS[form](ledger, output)
    say_beside(path, f"{path}: {ledger.tally().reported} rows")
    if notice := scores_notice(meaningful=bool(ledger.get("job")["meaningful"])):
        say_beside(path, notice)
    ledger.close()


def _export_names(out: Path, path: Path, *, meta: bool, force: bool) -> None:
    from contextlib import closing

    from producer.results.names import is_own_names, write_names
    from producer.run.folder import Paths
    from producer.run.open import inputs_of, open_ledger, pacs_of, source_of

    settings, paths = read_settings(), Paths(out.absolute())
    with closing(open_ledger(out)) as ledger:
        output = OutputFile(path, inputs=inputs_of(ledger, paths), force=force, private=True)
        output.check(is_own_names)
        count = ledger.tally().reported
        source = source_of(ledger, settings, paths)
        with (
            closing(pacs_of(ledger, settings, paths)) as pacs,
            click.progressbar(length=count, label=t("Headers"), file=sys.stderr) as bar,
        ):
            missing = write_names(
                ledger, source, pacs, output, meta=meta, progress=lambda done: bar.update(done - bar.pos)
            )
        say_beside(path, f"{path}: {count} rows. It identifies patients: only you may read it (mode 0600)")
        if missing:
            say_beside(path, f"{missing} images are no longer in the PACS: their columns are empty")
        if notice := scores_notice(meaningful=bool(ledger.get("job")["meaningful"])):
            say_beside(path, notice)


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
    help="The Orthanc's address for a browser. Default: CXR_PACS_LINK, else the address that the run used.",
)
@click.option(
    "--viewer",
    metavar="URL",
    default="",
    help="Where each link leads instead, with {study_instance_uid}, {sop_instance_uid} or {instance} in it."
    " Default: CXR_VIEWER_LINK.",
)
@click.option(
    "--to",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="The file, or - for standard output. Default: OUT/summary.html.",
)
@FORCE
def summary(
    out: Path,
    baseline: Path | None,
    groups: Path | None,
    orthanc: str,
    viewer: str,
    to: Path | None,
    force: bool,
) -> None:
    """Write the summary page of a run, at any time; with --baseline, compare its scores with an earlier run's."""
    from producer.page.page import drift_line, is_own_page, write_page
    from producer.page.words import words_of
    from producer.results.audit_log import verify as follow
    from producer.run.folder import Paths
    from producer.run.open import inputs_of, open_ledger

    if groups and not baseline:
        raise click.UsageError("--groups compares with a run: it needs --baseline")
    ledger, earlier = open_ledger(out), open_ledger(baseline) if baseline else None
    audit, path = Paths(out).audit, to or Paths(out).page
    inputs = [*inputs_of(ledger, Paths(out)), *([groups] if groups else [])]
    if baseline and earlier:
        inputs += inputs_of(earlier, Paths(baseline))
    output = OutputFile(path, inputs=tuple(inputs), force=force)
    output.check(is_own_page)
    followed = follow(ledger, audit) if audit.exists() else None
    settings, language = read_settings(), interface_language()
    found = write_page(
        ledger,
        output,
        baseline=earlier,
        groups=groups,
        orthanc=orthanc or settings.pacs_link,
        viewer=viewer or ("" if orthanc else settings.viewer_link),
        audit=followed,
        beside=out if path.absolute().parent == out.absolute() else None,
        language=language,
    )
    if found.comparison:
        words, grouping = words_of(language), found.comparison.grouping
        say_beside(path, drift_line(found.comparison, words))
        for note in grouping.notes if grouping else ():
            say_beside(path, f"Groups    {note}")
        if grouping and not grouping.groups:
            click.echo(words("groups_none", count=grouping.studies), err=True)
    say_beside(path, f"Page      {path}")
    if followed and not followed.right:
        echo(
            f"Audit     the audit's line {followed.broken} is wrong: see cxr-backlog audit verify {out}",
            err=True,
        )
