"""The command line: ``cxr-backlog``.

Nothing heavy is imported here: `--help` answers in a third of a second.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from backlog.errors import BacklogError, InstanceRejected, ServiceUnavailable, UsageError

if TYPE_CHECKING:
    from backlog.settings import Settings
    from producer.runs import Paths

OK = 0
FAILED = 1
USAGE = 2
QUARANTINED = 3
INTERRUPTED = 4

_EPILOG = (
    "Exit status: 0 all reported or skipped, 2 usage, 3 finished with quarantined items, 4 interrupted and "
    "resumable, 1 anything else. For research only: the reports are not for diagnosis."
)


class _Commands(click.Group):
    """Turns our errors into one line and an exit status; bugs stay loud."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UsageError as error:
            _fail(error, USAGE)
        except (ServiceUnavailable, InstanceRejected, BacklogError) as error:
            _fail(error, FAILED)
        except OSError as error:
            if error.filename is None:
                raise  # a closed pipe, say, which click knows about
            _fail(UsageError(f"{error.filename}: {error.strerror}"), FAILED)


def _fail(error: BaseException, status: int) -> NoReturn:
    click.echo(f"cxr-backlog: {error}", err=True)
    sys.exit(status)


def _settings() -> Settings:
    from backlog.settings import from_environment

    return from_environment()


_SOURCE = click.argument("source")
_OUT = click.argument("out", type=click.Path(path_type=Path, file_okay=False))
_PACS = click.option(
    "--pacs", metavar="URL", help="http(s)://… of an Orthanc, or a folder. Default: CXR_PACS_URL, else OUT/pacs."
)
_SINCE = click.option("--since", metavar="DATE", default="", help="Orthanc: only what changed since, YYYY-MM-DD[THH:MM].")
_MODALITY = click.option("--modality", metavar="CS", default="", help="Orthanc: only this modality, as CR or DX.")
_STUDY_DATE = click.option("--study-date", metavar="RANGE", default="", help="Orthanc: only these study dates, as 20240101-20241231.")


@click.group(cls=_Commands, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cxr-backlog")
def main() -> None:
    """Score a backlog of chest radiographs and put one DICOM SR per image back into its study.

    SOURCE is a zip archive, a folder, or the word 'orthanc'.
    """


@main.command()
@_SOURCE
@_PACS
@_SINCE
@_MODALITY
@_STUDY_DATE
@click.option("--sample", default=1000, show_default=True, help="Most headers to read; 0 reads every one.")
def plan(source: str, pacs: str | None, since: str, modality: str, study_date: str, sample: int) -> None:
    """Say what a run would do. Writes nothing."""
    from producer.plan import make_plan

    settings = _settings()
    chosen = _selection(since, modality, study_date)
    made = make_plan(source, settings, pacs or settings.pacs_url, chosen, sample)
    for line in _plan_lines(made):
        click.echo(line)


@main.command()
@_SOURCE
@_PACS
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="The run's folder. Default: a new one here.")
@click.option("--workers", type=click.IntRange(1, 256), help="Inference processes. Default: one for each core.")
@_SINCE
@_MODALITY
@_STUDY_DATE
@click.option("--read-back", is_flag=True, help="Read each report back after storing it, and compare.")
@click.option(
    "--predecessor",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="OUT",
    help="An earlier run's folder: the new reports refer to its reports of the same images.",
)
def run(
    source: str,
    pacs: str | None,
    out: Path | None,
    workers: int | None,
    since: str,
    modality: str,
    study_date: str,
    read_back: bool,
    predecessor: Path | None,
) -> None:
    """Run the model over a backlog.

    With CXR_REDIS_URL set, only dispatches and watches, and workers elsewhere do the work; without, starts a private
    Redis and the workers itself, and stops them at the end.
    """
    from producer.runs import Paths, create

    settings = _settings()
    out = (out or Path(f"cxr-run-{datetime.now():%Y%m%d-%H%M%S}")).absolute()  # noqa: DTZ005  # the person's clock
    paths = Paths(out)
    chosen = _selection(since, modality, study_date)
    address = pacs or settings.pacs_url or str(paths.pacs)
    create(
        source,
        settings,
        address,
        paths,
        chosen,
        workers=workers or _cores(),
        read_back=read_back,
        predecessor=predecessor,
    )
    _work(settings, paths)


@main.command()
@_OUT
def resume(out: Path) -> None:
    """Go on with an interrupted, paused or cancelled run."""
    from producer.runs import Paths, is_running, open_ledger

    paths = Paths(out.absolute())
    open_ledger(paths.out).close()
    paused = paths.pause.exists()
    paths.pause.unlink(missing_ok=True)
    paths.cancel.unlink(missing_ok=True)
    if paused and is_running(paths):
        click.echo("The run goes on.")
        return
    _work(_settings(), paths)


@main.command()
@_OUT
def pause(out: Path) -> None:
    """Send nothing new; what is in flight ends. Go on with 'resume'."""
    from producer.runs import Paths, open_ledger

    open_ledger(out).close()
    Paths(out).pause.touch()
    click.echo(f"Paused. Go on with: cxr-backlog resume {out}")


@main.command()
@_OUT
def cancel(out: Path) -> None:
    """Stop the run, here and on every worker. What was reported stays; 'resume' takes it up again."""
    from producer.runs import Paths, open_ledger

    ledger = open_ledger(out)
    run_id = ledger.fact("job")["run"]
    ledger.close()
    Paths(out).cancel.touch()
    settings = _settings()
    if settings.redis_url:
        from backlog.claims import Claims

        Claims(settings.broker).set_state(run_id, "cancelled")
    click.echo("Cancelled. What was reported stays; see 'cxr-backlog retract' to take it back.")


@main.command()
@_OUT
@click.option("--watch", is_flag=True, help="Show it again every two seconds until the run is complete.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def status(out: Path, watch: bool, as_json: bool) -> None:
    """Say how far a run is."""
    import time

    from producer.outputs import summarise
    from producer.runs import Paths, is_running, open_ledger

    while True:
        ledger = open_ledger(out)
        summary = summarise(ledger)
        ledger.close()
        summary["state"] = _state(Paths(out), complete=summary["complete"], running=is_running(Paths(out)))
        if watch and sys.stdout.isatty() and not as_json:
            click.clear()
        click.echo(json.dumps(summary) if as_json else "\n".join(_summary_lines(summary)))
        if not watch or summary["complete"]:
            return
        time.sleep(2)


@main.command()
@_OUT
@click.option("--format", "form", type=click.Choice(["csv", "jsonl", "parquet"]), default="csv", show_default=True)
@click.option("--to", type=click.Path(path_type=Path, dir_okay=False), help="The file. Default: OUT/scores.FORMAT.")
def export(out: Path, form: str, to: Path | None) -> None:
    """Write the scores that a run has so far."""
    from producer.outputs import WRITERS
    from producer.runs import open_ledger

    ledger = open_ledger(out)
    path = to or out / f"scores.{form}"
    WRITERS[form](ledger, path)
    click.echo(f"{path}: {ledger.tally().reported} rows")
    ledger.close()


@main.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for the demo. Default: a new one here.")
@click.option("--count", type=click.IntRange(1, 10_000), default=24, show_default=True, help="Images to make.")
def demo(out: Path | None, count: int) -> None:
    """Run the main job on synthetic radiographs that are made first.

    Uses the released weights; where they can't be had, and only here, goes on with seeded weights and says so.
    """
    from dataclasses import replace

    from producer.embedded import need_worker, prepare_model
    from producer.runs import Paths, Selection, create
    from producer.synthetic import write_backlog

    need_worker()

    settings = _settings()
    if settings.redis_url:
        raise UsageError("the demo starts its own Redis and workers: unset CXR_REDIS_URL")
    out = (out or Path(f"cxr-demo-{datetime.now():%Y%m%d-%H%M%S}")).absolute()  # noqa: DTZ005  # the person's clock
    out.mkdir(parents=True, exist_ok=True)
    backlog = out / "backlog.zip"
    click.echo(f"Making {count} synthetic radiographs …")
    made = write_backlog(backlog, count=count)
    click.echo(f"{backlog}: {made} files")
    if not settings.weights:
        try:
            prepare_model()
        except UsageError as error:
            click.echo(f"{error}\nThe demo goes on with SEEDED WEIGHTS: ITS SCORES MEAN NOTHING.")
            settings = replace(settings, weights="seeded")
    paths = Paths(out / "run")
    create(str(backlog), settings, str(paths.pacs), paths, Selection(), workers=_cores())
    _work(settings, paths)


@main.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--picture", type=click.Path(path_type=Path, dir_okay=False), help="Where to write the 224 × 224 PNG that the model sees.")
@click.option("--no-scores", is_flag=True, help="Don't load the model.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def inspect(file: Path, picture: Path | None, no_scores: bool, as_json: bool) -> None:
    """Say what the system would do with one DICOM file, and why."""
    from producer.embedded import ask_worker

    arguments = [str(file), *(["--picture", str(picture)] if picture else []), *(["--no-scores"] if no_scores else [])]
    found = ask_worker("worker.inspection", *arguments)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    reason = f" ({found['reason']}{': ' if found['detail'] else ''}{found['detail']})" if found["reason"] else ""
    click.echo(f"This file {found['outcome']}{reason}")
    for key, value in found.get("facts", {}).items():
        click.echo(f"  {key:<22} {_printable(value)}")
    if "bits" in found:
        click.echo(f"  {'bits used':<22} {found['bits']}")
        click.echo(f"  {'flags':<22} {' '.join(found['flags']) or 'none'}")
    if "picture" in found:
        click.echo(f"  {'picture':<22} {found['picture']}")
    for label, score in found.get("scores", {}).items():
        click.echo(f"  {label:<28} {score:.4f}{'  at or above the operating point' if score >= 0.5 else ''}")


def _printable(value: object) -> str:
    return "".join(c if c.isprintable() else "?" for c in str(value)) or "-"


@main.command()
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


class _ListByDefault(click.Group):
    """``quarantine OUT`` is short for ``quarantine list OUT``."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands:
            args = ["list", *args]
        return super().resolve_command(ctx, args)


@main.group(cls=_ListByDefault)
def quarantine() -> None:
    """List, show or replay what a run could not score. 'quarantine OUT' lists."""


_NAMES = click.option("--names", is_flag=True, help="Show what the source calls each item. May show patients' names.")


@quarantine.command("list")
@_OUT
@_NAMES
@click.option("--reason", multiple=True, help="Only this reason; may be given more than once.")
def quarantine_list(out: Path, names: bool, reason: tuple[str, ...]) -> None:
    """List the quarantined items with their reasons."""
    from backlog.outcomes import Outcome
    from producer.runs import open_ledger

    ledger = open_ledger(out)
    name = _namer(ledger, out) if names else None
    for item in ledger.items(Outcome.QUARANTINED):
        if not reason or item["reason"] in reason:
            more = f"  {name(item)}" if name else ""
            click.echo(f"{item['no']:>8}  {item['reason']:<28} {item['detail']}{more}".rstrip())
    counts = ledger.tally().quarantined
    click.echo(f"Quarantined {_reasons(counts)}")
    ledger.close()


@quarantine.command("show")
@_OUT
@click.argument("item", type=int)
@_NAMES
def quarantine_show(out: Path, item: int, names: bool) -> None:
    """Show all that is known of one item."""
    from producer.runs import open_ledger

    ledger = open_ledger(out)
    found = ledger.item(item)
    if found is None:
        raise UsageError(f"{out}: no item {item} has ended")
    if names:
        found["name"] = _namer(ledger, out)(found)
    for key, value in found.items():
        if value not in ("", None):
            click.echo(f"{key:<20} {value}")
    ledger.close()


@quarantine.command("replay")
@_OUT
@click.option("--to", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of the new run.")
@click.option("--reason", multiple=True, help="Only this reason; may be given more than once.")
def quarantine_replay(out: Path, to: Path, reason: tuple[str, ...]) -> None:
    """Try the quarantined items again, as a run of their own."""
    from producer.runs import Paths, create_replay

    settings = _settings()
    count = create_replay(Paths(out.absolute()), Paths(to.absolute()), frozenset(reason), settings)
    click.echo(f"Trying {count} items again.")
    _work(settings, Paths(to.absolute()))


def _namer(ledger: Any, out: Path) -> Any:
    from producer.runs import Paths, source_of

    source = source_of(ledger, _settings(), Paths(out.absolute()))

    def name(item: dict[str, Any]) -> str:
        return _printable(source.name(json.loads(item["ref"])))

    return name


@main.command()
@_OUT
def verify(out: Path) -> None:
    """Read every report of a run back from the PACS. Fails when one is missing, changed or there twice."""
    from backlog.pacs import connect
    from producer.aftercare import verify as read_back
    from producer.runs import open_ledger

    ledger = open_ledger(out)
    found = read_back(ledger, connect(_settings(), str(ledger.fact("pacs"))))
    taken_back = ledger.retracted()
    ledger.close()
    click.echo(f"Right       {found.right}")
    for title, items in (("Missing", found.missing), ("Different", found.different), ("Twice", found.twice)):
        click.echo(f"{title:<11} {len(items)}" + (f" (items {_some(items)})" if items else ""))
    click.echo(f"Unaccounted {found.unaccounted}")
    if taken_back:
        click.echo(f"Retracted   {taken_back}")
    sys.exit(OK if found.complete else FAILED)


@main.command()
@_OUT
@click.option("--yes", is_flag=True, help="Delete; without, only list.")
def retract(out: Path, yes: bool) -> None:
    """Delete the reports that a run wrote, and nothing else."""
    from backlog.pacs import connect
    from producer.aftercare import retract as take_back
    from producer.aftercare import written
    from producer.audit import Audit
    from producer.runs import Paths, is_running, open_ledger

    if not yes:
        ledger = open_ledger(out)
        count = 0
        for item in written(ledger):
            click.echo(item["sr_sop_instance_uid"])
            count += 1
        ledger.close()
        click.echo(f"{count} reports were written by this run. Delete them with: cxr-backlog retract {out} --yes")
        return
    open_ledger(out).close()
    if is_running(Paths(out)):
        raise UsageError(f"{out}: the run is at work; cancel it first")
    ledger = open_ledger(out, write=True)
    with Audit(ledger, Paths(out).audit) as audit:
        try:
            deleted, others = take_back(ledger, connect(_settings(), str(ledger.fact("pacs"))))
        finally:
            audit.catch_up(durable=True)
    ledger.close()
    click.echo(f"Deleted {deleted} reports." + (f" {others} were gone or changed already and were left alone." if others else ""))


@main.command()
@_OUT
@click.option("--baseline", type=click.Path(path_type=Path, file_okay=False), help="An earlier run's folder: have the scores drifted?")
@click.option("--groups", type=click.Path(path_type=Path, dir_okay=False), help="CSV of study_instance_uid,group: drift by site or device.")
@click.option("--orthanc", metavar="URL", default="", help="Where a browser finds the Orthanc. Default: where the run did.")
@click.option("--to", type=click.Path(path_type=Path, dir_okay=False), help="The file. Default: OUT/report.html.")
def report(out: Path, baseline: Path | None, groups: Path | None, orthanc: str, to: Path | None) -> None:
    """Write the report page of a run, at any time; with --baseline, compare its scores with an earlier run's."""
    from producer.audit import verify as follow
    from producer.report_page import drift_line, write_page
    from producer.runs import Paths, open_ledger

    if groups and not baseline:
        raise click.UsageError("--groups compares with a run: it needs --baseline")
    ledger, earlier = open_ledger(out), open_ledger(baseline) if baseline else None
    audit, path = Paths(out).audit, to or Paths(out).page
    head = follow(ledger, audit).head if audit.exists() else None
    found = write_page(ledger, path, baseline=earlier, groups=groups, orthanc=orthanc, audit=head)
    if found.comparison:
        click.echo(drift_line(found.comparison))
    click.echo(f"Page      {path}")


@main.group()
def audit() -> None:
    """The record of what a run stored, found and deleted: OUT/audit.jsonl."""


@audit.command("verify")
@_OUT
@click.option("--head", default="", help="A line's SHA-256 that was noted earlier: must be in the chain.")
def audit_verify(out: Path, head: str) -> None:
    """Follow the chain of hashes and compare it with the ledger. Fails at the first wrong line and names it."""
    from producer.audit import verify as follow
    from producer.runs import Paths, is_running, open_ledger

    running = is_running(Paths(out))
    ledger = open_ledger(out)
    verdict = follow(ledger, Paths(out).audit, head.strip().lower())
    ledger.close()
    click.echo(f"Right     {verdict.head.seq} lines, the last of them {verdict.head.hash}")
    if not verdict.right:
        click.echo(f"WRONG     line {verdict.broken}: {verdict.why}")
        if running:
            click.echo("          The run is at work: a line may be on its way.")
        sys.exit(FAILED)


@main.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=".", help="Where a run's folder would be.")
@click.option("--pacs", metavar="URL", default="", help="The PACS. Default: CXR_PACS_URL.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def doctor(out: Path, pacs: str, as_json: bool) -> None:
    """Check what a run needs (Redis, PACS, weights, engine, disk, versions) and say what to mend."""
    from dataclasses import asdict

    from producer.doctor import examine

    findings = list(examine(_settings(), out.absolute(), pacs))
    for finding in findings:
        if not as_json:
            click.echo(f"{finding.state:<5} {finding.what:<10} {finding.text}")
            if finding.mend:
                click.echo(f"{'':<16} → {finding.mend}")
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings]))
    sys.exit(FAILED if any(finding.state == "BAD" for finding in findings) else OK)


def _some(items: list[int]) -> str:
    return ", ".join(map(str, items[:10])) + (" …" if len(items) > 10 else "")


def _selection(since: str, modality: str, study_date: str) -> Any:
    from producer.runs import Selection

    if since:
        try:
            since = f"{datetime.fromisoformat(since).astimezone(UTC):%Y%m%dT%H%M%S}"  # Orthanc's clock is UTC
        except ValueError:
            raise click.BadParameter(f"{since!r} is no date; write it as 2024-12-31 or 2024-12-31T08:00", param_hint="--since") from None
    return Selection(since, modality, study_date)


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0))


def _work(settings: Settings, paths: Paths) -> NoReturn:
    """Run until complete or interrupted, print the account, and exit."""
    from producer.runs import go_on, open_ledger
    from producer.show import display

    ledger = open_ledger(paths.out)
    orthanc, pacs = ledger.fact("word") == "orthanc", ledger.fact("pacs")
    ledger.close()
    from backlog.messages import Stage

    with display(Stage.INFER if orthanc else Stage.UPLOAD) as shown:
        summary, interrupted = go_on(settings, paths, show=shown.show, say=shown.say)
    for line in _summary_lines(summary):
        click.echo(line)
    click.echo(f"Reports   in the PACS at {pacs}")
    click.echo(f"Scores    {paths.scores}")
    click.echo(f"Summary   {paths.summary}")
    if paths.page.exists():
        click.echo(f"Page      {paths.page}")
    if interrupted:
        click.echo(f"Interrupted. Go on with: cxr-backlog resume {paths.out}")
        sys.exit(INTERRUPTED)
    if summary["quarantined"]:
        click.echo(f"Some items need a look: cxr-backlog quarantine {paths.out}")
        sys.exit(QUARANTINED)
    sys.exit(OK)


def _state(paths: Paths, *, complete: bool, running: bool) -> str:
    if complete:
        return "complete"
    if paths.cancel.exists():
        return "cancelled"
    if paths.pause.exists():
        return "paused"
    return "running" if running else "interrupted"


def _summary_lines(summary: dict[str, Any]) -> list[str]:
    lines = [
        f"Run       {summary['run']}" + (f" ({summary['state']})" if "state" in summary else ""),
        f"Total     {summary['total']}",
        f"Reported  {summary['reported']}",
        f"Skipped   {_reasons(summary['skipped'])}",
        f"Quarantined {_reasons(summary['quarantined'])}",
        f"Time      {summary['seconds']:.1f} s, {summary['images_per_second']:.2f} images/s",
        f"Model     {summary['model']} ({summary['engine'] or 'not run yet'})",
    ]
    if not summary["weights_meaningful"]:
        lines.append("          SEEDED WEIGHTS: THE SCORES MEAN NOTHING")
    return lines


def _reasons(counts: dict[str, int]) -> str:
    total = sum(counts.values())
    detail = ", ".join(f"{reason} {count}" for reason, count in counts.items())
    return f"{total} ({detail})" if counts else "0"


def _plan_lines(made: Any) -> list[str]:
    whole = made.read + sum(made.by_listing.values()) == made.total
    about = "" if whole else "about "
    lines = [f"Items     {made.total}" + (f", {made.size / 1e6:,.1f} MB" if made.size else "")]
    if not whole:
        lines.append(f"          headers of {made.read} were read; counts are scaled up from them")
    lines.append(f"To score  {about}{made.would_score}")
    for title, counts in (("Skipped", made.skipped()), ("To look at", made.quarantined())):
        lines.append(f"{title:<9} {about if counts else ''}{sum(counts.values())}")
        lines += [f"          {reason.value} {count}" for reason, count in sorted(counts.items(), key=lambda one: one[0].value)]
    cores = _cores()
    lines.append(f"Time      about {_duration(made.seconds(cores))} with the {cores} cores of this machine")
    return lines


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    main()
