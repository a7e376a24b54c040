"""The commands that hold a run back: pause, cancel."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import click

from backlog.files import touch
from producer.cli.options import COPY, OUT
from producer.cli.output import agree_on_copy, echo, read_settings
from producer.run.folder import Paths


@click.command()
@OUT
@COPY
def pause(out: Path, copy: bool) -> None:
    """Pause a run, here and on every worker, within seconds. 'resume' continues it."""
    run_id = _unfinished(out, copy)
    if run_id is None:
        echo("The run is complete: there is nothing to pause.")
        return
    touch(Paths(out).pause)
    _tell_workers(run_id, "paused")
    echo(
        "Paused: nothing new is begun, and each worker process ends at most the image that it has."
        f" Go on with: cxr-backlog resume {out}"
    )


@click.command()
@OUT
@COPY
def cancel(out: Path, copy: bool) -> None:
    """Stop the run, here and on every worker. Stored reports stay; 'resume' continues it."""
    run_id = _unfinished(out, copy)
    if run_id is None:
        echo("The run is complete: there is nothing to cancel. 'cxr-backlog retract' takes it back.")
        return
    touch(Paths(out).cancel)
    _tell_workers(run_id, "cancelled")
    echo("Cancelled. What was reported stays; see 'cxr-backlog retract' to take it back.")


def _unfinished(out: Path, copy: bool) -> str | None:
    """Return the name of a run; None where it is complete."""
    from producer.results.exports import summarise
    from producer.run.open import open_ledger

    with closing(open_ledger(out)) as ledger:
        agree_on_copy(ledger, Paths(out), copy)
        return None if summarise(ledger)["complete"] else str(ledger.get("job")["run"])


def _tell_workers(run_id: str, state: str) -> None:
    """Tell the workers of a stack at once; those of an embedded run learn it from its producer."""
    settings = read_settings()
    if not settings.redis_url:
        return
    from backlog.broker.claims import Claims
    from backlog.errors import ServiceUnavailable

    try:
        Claims(settings.broker).set_state(run_id, state)
    except ServiceUnavailable as error:
        echo(f"{error}: the run's producer tells the workers as soon as it is back.", err=True)
