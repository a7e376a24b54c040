"""Commands that look: status, export, inspect, settings, report, doctor."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from producer.cli.output import FAILED, OK, OUT, printable, read_settings, state_of, summary_lines


@click.command()
@OUT
@click.option("--watch", is_flag=True, help="Show it again every two seconds until the run is complete.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def status(out: Path, watch: bool, as_json: bool) -> None:
    """Say how far a run is."""
    import time

    from producer.results.exports import summarise
    from producer.run.folder import Paths, is_running, open_ledger

    while True:
        ledger = open_ledger(out)
        summary = summarise(ledger)
        ledger.close()
        summary["state"] = state_of(Paths(out), complete=summary["complete"], running=is_running(Paths(out)))
        if watch and sys.stdout.isatty() and not as_json:
            click.clear()
        click.echo(json.dumps(summary) if as_json else "\n".join(summary_lines(summary)))
        if not watch or summary["complete"]:
            return
        time.sleep(2)


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
    from producer.run.folder import open_ledger

    ledger = open_ledger(out)
    path = to or out / f"scores.{form}"
    WRITERS[form](ledger, path)
    click.echo(f"{path}: {ledger.tally().reported} rows")
    ledger.close()


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--picture",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write the 224 × 224 PNG that the model sees.",
)
@click.option("--no-scores", is_flag=True, help="Don't load the model.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def inspect(file: Path, picture: Path | None, no_scores: bool, as_json: bool) -> None:
    """Say what the system would do with one DICOM file, and why."""
    from producer.run.local_servers import ask_worker

    arguments = [
        str(file),
        *(["--picture", str(picture)] if picture else []),
        *(["--no-scores"] if no_scores else []),
    ]
    found = ask_worker("worker.inspection", *arguments)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    reason = (
        f" ({found['reason']}{': ' if found['detail'] else ''}{found['detail']})" if found["reason"] else ""
    )
    click.echo(f"This file {found['outcome']}{reason}")
    for key, value in found.get("facts", {}).items():
        click.echo(f"  {key:<22} {printable(value)}")
    if "bits" in found:
        click.echo(f"  {'bits used':<22} {found['bits']}")
        click.echo(f"  {'flags':<22} {' '.join(found['flags']) or 'none'}")
    if "picture" in found:
        click.echo(f"  {'picture':<22} {found['picture']}")
    for label, score in found.get("scores", {}).items():
        click.echo(f"  {label:<28} {score:.4f}{'  at or above the operating point' if score >= 0.5 else ''}")


@click.command()
@click.option("--markdown", is_flag=True, help="As the README's table.")
def settings(markdown: bool) -> None:
    """List every setting, its default and its meaning."""
    from dataclasses import fields

    from backlog.settings import Settings, variable

    for field in fields(Settings):
        text, default = field.metadata["help"], field.default
        shown = str(default).lower() if isinstance(default, bool) else str(default)
        if field.metadata["choices"]:
            text += f" One of {', '.join(field.metadata['choices'])}."
        if field.metadata["secret"]:
            text += f" Or {variable(field)}_FILE names a file with it."
        if markdown:
            click.echo(f"| `{variable(field)}` | {f'`{shown}`' if shown else ''} | {text} |")
        else:
            click.echo(f"{variable(field):<24} {shown or '-':<14} {text.replace('`', '')}")


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
    "--to", type=click.Path(path_type=Path, dir_okay=False), help="The file. Default: OUT/report.html."
)
def report(out: Path, baseline: Path | None, groups: Path | None, orthanc: str, to: Path | None) -> None:
    """Write the report page of a run, at any time; with --baseline, compare its scores with an earlier run's."""
    from producer.page.page import drift_line, write_page
    from producer.results.audit_log import verify as follow
    from producer.run.folder import Paths, open_ledger

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


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=".",
    help="Where a run's folder would be.",
)
@click.option("--pacs", metavar="URL", default="", help="The PACS. Default: CXR_PACS_URL.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def doctor(out: Path, pacs: str, as_json: bool) -> None:
    """Check what a run needs (Redis, PACS, weights, engine, disk, versions) and say what to mend."""
    from dataclasses import asdict

    from producer.doctor import examine

    findings = list(examine(read_settings(), out.absolute(), pacs))
    for finding in findings:
        if not as_json:
            click.echo(f"{finding.state:<5} {finding.what:<10} {finding.text}")
            if finding.mend:
                click.echo(f"{'':<16} → {finding.mend}")
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings]))
    sys.exit(FAILED if any(finding.state == "BAD" for finding in findings) else OK)
