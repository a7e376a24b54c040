"""Commands that look at one image or at this machine: inspect, settings, doctor."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backlog.errors import UsageError
from backlog.output_file import OutputFile
from backlog.processes import cores
from producer.cli.options import FAILED, FORCE, OK
from producer.cli.output import echo, printable, read_settings, say_beside, work
from producer.translation import decimal, t, translated

if TYPE_CHECKING:
    from backlog.worker_programs import Inspection


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--picture",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="Where to write the 224 × 224 PNG that the model sees; - for standard output.",
)
@FORCE
@click.option("--no-scores", is_flag=True, help="Don't load the model.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def inspect(file: Path, picture: Path | None, force: bool, no_scores: bool, as_json: bool) -> None:
    """Say what the system would do with one DICOM file, and why."""
    from producer.workers.worker_command import ask_worker

    with tempfile.TemporaryDirectory(prefix="cxr-") as folder:
        output = OutputFile(picture, inputs=(Path(file),)) if picture is not None else None
        passed_on = output is not None and output.is_open  # the worker has none of our files, and prints JSON
        shown = Path(folder) / "picture.png" if passed_on else picture
        arguments = [
            str(file),
            *(["--picture", str(shown)] if shown else []),
            *(["--force"] if force else []),
            *(["--no-scores"] if no_scores else []),
        ]
        found: Inspection = json.loads(ask_worker("worker.inspection", *arguments))
        if picture is not None and "picture" in found:
            found["picture"] = str(picture)
            if passed_on and output is not None and shown is not None:
                with output.open(lambda _: False) as file_out:
                    file_out.write(shown.read_bytes())
    beside = picture or Path(file)
    if as_json:
        say_beside(beside, json.dumps(found, indent=2))
        return
    for line in _inspection_lines(found):
        say_beside(beside, line)


def _inspection_lines(found: Inspection) -> Iterator[str]:
    detail = f": {translated(found['detail'])}" if found["detail"] else ""
    reason = f" ({found['reason']}{detail})" if found["reason"] else ""
    yield translated(f"This file {found['outcome']}") + reason
    for key, value in found.get("facts", {}).items():
        yield f"  {key:<22} {printable(value)}"
    if "bits" in found:
        yield f"  {t('bits used'):<22} {found['bits']}"
        yield f"  {t('flags'):<22} {' '.join(found['flags']) or t('none')}"
    if "picture" in found:
        yield f"  {t('picture'):<22} {found['picture']}"
    if "warning" in found:
        yield f"  {translated(found['warning'])}"
    above = "  " + t("at or above the operating point")
    for label, score in found.get("scores", {}).items():
        if score is None:
            yield f"  {label:<28} {t('not evaluated by this model')}"
            continue
        yield f"  {label:<28} {decimal(score, 4)}{above if score >= 0.5 else ''}"


@click.command()
@click.option("--markdown", is_flag=True, help="As the README's table.")
def settings(markdown: bool) -> None:
    """List every setting, its default and its meaning."""
    from dataclasses import fields

    from backlog.settings import Settings, variable

    for field in fields(Settings):
        text, default = field.metadata["help"], field.default
        shown = str(default).lower() if isinstance(default, bool) else str(default)
        text = t(text)
        if field.metadata["choices"]:
            text += " " + t("One of {choices}.").format(choices=", ".join(field.metadata["choices"]))
        if field.metadata["secret"]:
            text += " " + t("Or {file} names a file with it.").format(file=f"{variable(field)}_FILE")
        if markdown:
            click.echo(f"| `{variable(field)}` | {f'`{shown}`' if shown else ''} | {text} |")
        else:
            click.echo(f"{variable(field):<24} {shown or '-':<14} {text.replace('`', '')}")


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
    """Check what a run needs (Redis, PACS, weights, engine, disk, versions) and say what to fix."""
    from dataclasses import asdict

    from producer.doctor.examine import examine

    findings = list(examine(read_settings(), out.absolute(), pacs))
    for finding in findings:
        if not as_json:
            click.echo(f"{t(finding.state):<5} {finding.what:<10} {translated(finding.text)}")
            if finding.remedy:
                click.echo(f"{'':<16} → {translated(finding.remedy)}")
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings]))
    sys.exit(FAILED if any(finding.state == "BAD" for finding in findings) else OK)


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the demo. Default: a new one here.",
)
@click.option(
    "--count", type=click.IntRange(1, 10_000), default=24, show_default=True, help="Images to make."
)
def demo(out: Path | None, count: int) -> None:
    """Run the main job on synthetic radiographs that are made first.

    Uses the released weights. Where they can't be downloaded, it goes on with seeded (meaningless) weights and says so;
    no other command does that.
    """
    from producer.demo.backlog import write_backlog
    from producer.run.create import create
    from producer.run.folder import Paths, new_folder
    from producer.run.make_run import refuse_another
    from producer.sources.open import Selection
    from producer.workers.worker_command import need_worker, prepare_model

    need_worker()

    settings = read_settings()
    if settings.redis_url:
        raise UsageError("the demo starts its own Redis and workers: unset CXR_REDIS_URL")
    out = out.absolute() if out else new_folder("cxr-demo")
    out.mkdir(parents=True, exist_ok=True)
    backlog, paths = out / "backlog.zip", Paths(out / "run")
    refuse_another(paths)
    if backlog.exists():
        raise UsageError(f"{backlog}: the demo would replace this file: choose another folder with --out")
    echo(f"Making {count} synthetic radiographs …")
    made = write_backlog(backlog, count=count)
    echo(f"{backlog}: {made} files")
    if not settings.weights:
        try:
            prepare_model()
        except UsageError as error:
            echo(f"{error}\nThe demo goes on with SEEDED WEIGHTS: ITS SCORES MEAN NOTHING.")
            settings = replace(settings, weights="seeded")
    create(str(backlog), settings, str(paths.pacs), paths, Selection(), workers=cores())
    work(settings, paths)
