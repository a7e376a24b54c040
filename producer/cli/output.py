"""What the commands have in common: arguments, exit statuses, the settings, and the work itself."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from backlog.errors import UsageError
from backlog.model import scores_notice
from backlog.output_file import OutputFile
from producer.cli.options import INTERRUPTED, OK, QUARANTINED
from producer.translation import decimal, t, translated

if TYPE_CHECKING:
    from backlog.settings import Settings
    from producer.ledger.ledger import Ledger
    from producer.results.exports import Summary
    from producer.results.only_account import OnlyAccount
    from producer.run.folder import Paths


#: Width of the names in an account.
_NAME_WIDTH = 11


def read_settings() -> Settings:
    """Return the settings of the environment."""
    from backlog.environment import from_environment

    return from_environment()


def echo(text: str, *, err: bool = False) -> None:
    """Print a message in the user's language; on standard error if asked to."""
    click.echo(translated(text), err=err)


def say_beside(path: Path, text: str) -> None:
    """Print a line, but to standard error where standard output carries the file itself."""
    click.echo(translated(text), err=OutputFile(path).is_stdout)


def need_runner(settings: Settings) -> Path:
    """Return the folder that a runner works through.

    Raises
    ------
    UsageError
        None does.
    """
    from producer.runner.runs import runner_lives

    folder = Path(settings.runs_folder)
    if not settings.runs_folder:
        raise UsageError("--detach leaves a run to the runner of CXR_RUNS_FOLDER, which is not set")
    if not runner_lives(folder):
        raise UsageError(
            f"no runner works through {folder}: start it (docker compose up -d), or leave --detach out"
        )
    return folder


def agree_on_copy(ledger: Ledger, paths: Paths, copy: bool) -> None:
    """Have the user agree, by ``--copy`` or on the terminal, to write for a copy of a run.

    Parameters
    ----------
    ledger
        The run's ledger.
    paths
        The run's folder.
    copy
        Whether the user agreed by the option.

    Raises
    ------
    UsageError
        It is a copy, and the user didn't.
    """
    from producer.run.place import check_not_copy

    try:
        check_not_copy(ledger, paths, agreed=copy)
    except UsageError as error:
        if (
            copy
            or not sys.stdin.isatty()
            or not click.confirm(f"{translated(str(error))}.\n{t('Work on the copy?')}")
        ):
            raise
        check_not_copy(ledger, paths, agreed=True)


def work(settings: Settings, paths: Paths, *, copy: bool = False) -> NoReturn:
    """Run until complete or interrupted, print the account, and exit; a followed source goes on day by day.

    Parameters
    ----------
    settings
        Of this process.
    paths
        The run's folder.
    copy
        Whether the user agreed to write for a copy of a run.
    """
    from producer.cli.progress import display
    from producer.execution.execute import go_on
    from producer.execution.follow import Follower
    from producer.ledger.ledger import FOLLOWS
    from producer.run.open import open_ledger

    ledger = open_ledger(paths.out)
    kind, follows = ledger.get("job")["source"]["kind"], ledger.get(FOLLOWS) is not None
    ledger.close()
    from backlog.broker.messages import FIRST_STAGES

    with display(FIRST_STAGES[kind]) as shown:
        if follows:
            follower = Follower(settings, shown, _account_lines, copy=copy)
            paths, summary, interrupted = follower.work(paths)
        else:
            summary, interrupted = go_on(
                settings, paths, show=shown.show, say=shown.say, doing=shown.doing, copy=copy
            )
    for line in _account_lines(paths, summary):
        click.echo(line)
    if interrupted:
        folder = paths.out.parent if follows else paths.out
        click.echo(t("Interrupted. Go on with: cxr-backlog resume {out}").format(out=folder))
        sys.exit(INTERRUPTED)
    sys.exit(_status(paths, summary))


def _account_lines(paths: Paths, summary: Summary) -> list[str]:
    """Return the account of a run that has ended or was interrupted, with where everything is."""
    from producer.run.open import open_ledger
    from producer.run.place import pacs_address

    with closing(open_ledger(paths.out)) as ledger:
        pacs = pacs_address(ledger, paths)
    lines = [
        *summary_lines(summary),
        row("Reports", t("in the PACS at {pacs}").format(pacs=pacs)),
        row("Scores", paths.scores),
        row("Summary", paths.summary),
    ]
    if paths.page.exists():
        lines.append(row("Page", paths.page))
    if summary.get("only") and paths.only_account.exists():
        lines.append(row("List", paths.only_account))
    if summary["complete"] and summary["quarantined"]:
        lines.append(t("Some items need a look: cxr-backlog quarantine {out}").format(out=paths.out))
    return lines


def _status(paths: Paths, summary: Summary) -> int:
    """Return the exit status of a run that is complete, and say what it means."""
    account = summary.get("only")
    missing = account is not None and (account["not_found"] or account["more_than_once"])
    if missing:
        click.echo(t("The list and the source do not agree: see {path}").format(path=paths.only_account))
    return QUARANTINED if summary["quarantined"] or missing else OK


def summary_lines(summary: Summary) -> list[str]:
    """Return the account of a run for a user."""
    state = f" ({t(summary['state'])})" if "state" in summary else ""
    known = summary.get("all_listed", True)
    total = (
        str(summary["total"])
        if known
        else t("unknown yet, {count} listed so far").format(count=summary["total"])
    )
    engine = summary["engine"] or t("not run yet")
    lines = [
        row("Run", summary["run"] + state),
        row("Total", total),
        *(row(name, text) for name, text in only_rows(summary.get("only"), whole=known)),
        row("Reported", f"{summary['reported']}" + _before(summary["reported_before"])),
        row("Skipped", count_reasons(summary["skipped"])),
        row("Quarantined", count_reasons(summary["quarantined"])),
        row(
            "Time",
            f"{decimal(summary['seconds'], 1)} s, {decimal(summary['images_per_second'], 2)} {t('images/s')}",
        ),
    ]
    if left := summary.get("seconds_left"):
        lines.append(row("Time left", t("about {duration}").format(duration=duration(left))))
    if follows := summary.get("follows"):
        lines.append(row("Follows", t("the day {day} of {zone}").format(**follows)))
        if gone := follows["gone_before_read"]:
            lines.append(
                row(
                    "",
                    t("{count} images were deleted from the PACS before they were read").format(count=gone),
                )
            )
    if hours := summary.get("between"):
        lines.append(row("Sends at", hours))
    if reason := summary.get("waiting_reason"):
        lines.append(row("Waiting", translated(reason)))
    lines.append(row("Model", f"{summary['model']} ({engine})"))
    if notice := scores_notice(meaningful=summary["weights_meaningful"]):
        lines.append(row("", t(notice)))
    return lines


def only_rows(account: OnlyAccount | None, *, whole: bool = True) -> list[tuple[str, str]]:
    """Return what to say of a list of wanted images, as rows of an account; nothing where there is none.

    Parameters
    ----------
    account
        The list's account; None where the run has no list.
    whole
        Whether the whole source is listed: else what is missing may be found yet.
    """
    if account is None:
        return []
    counts = [t("{count} found").format(count=account["found"])]
    if account["not_found"]:
        missing = t("{count} not found") if whole else t("{count} not found yet")
        counts.append(missing.format(count=account["not_found"]))
    if account["more_than_once"]:
        counts.append(t("{count} more than once").format(count=account["more_than_once"]))
    listed = t("{count} by {key} (column {column}): {counts}").format(
        count=account["listed"],
        key=account["by"],
        column=printable(account["column"]),
        counts=", ".join(counts),
    )
    rows = [(t("Wanted"), listed)]
    if account["repeated"]:
        rows.append(("", t("{count} rows of the list repeat another").format(count=account["repeated"])))
    if account["without_header"]:
        text = t(
            "{count} of {total} files have no header that can be read: whether they are wanted is not known"
        )
        rows.append(("", text.format(count=account["without_header"], total=account["looked_at"])))
    return rows


def row(name: str, value: object) -> str:
    """Return one line of an account: a name, in the user's language, and its value."""
    return f"{t(name):<{_NAME_WIDTH}} {value}".rstrip()


def duration(seconds: float) -> str:
    """Return a time as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{decimal(seconds / 3600, 1)} h"


def _before(count: int) -> str:
    if not count:
        return ""
    return " " + t("({count} of them were in the PACS already, from an earlier run)").format(count=count)


def count_reasons(counts: dict[str, int]) -> str:
    """Return a count and what it is made of."""
    total = sum(counts.values())
    detail = ", ".join(f"{reason} {count}" for reason, count in counts.items())
    return f"{total} ({detail})" if counts else "0"


def printable(value: object) -> str:
    """Return a value's text on one line, without control characters; a dash for nothing."""
    return "".join(c if c.isprintable() else "?" for c in str(value)) or "-"
