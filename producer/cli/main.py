"""The command line: ``cxr-backlog``.

Nothing heavy is imported here: `--help` answers in a third of a second.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import IO, Any, NoReturn

import click

from backlog.environment import check_names, interface_language, log_form
from backlog.errors import BacklogError, InstanceRejected, ServiceUnavailable, UsageError
from backlog.log import set_up, set_up_terminal
from producer import translation
from producer.cli import (
    compare,
    control,
    gallery,
    items,
    plan,
    results,
    run,
    runner,
    status,
    system,
    validate,
    verify,
)
from producer.cli.help import translate_help
from producer.cli.options import FAILED, UNAVAILABLE, USAGE
from producer.translation import t, translated

_EPILOG = (
    "Exit status: 0 all reported or skipped, 2 usage, 3 finished with quarantined items, 4 interrupted and "
    "resumable, 5 something is unavailable (try again), 1 anything else. For research only: the reports are not for"
    " diagnosis."
)


class _Commands(click.Group):
    """Turns our errors into one line and an exit status; bugs stay loud."""

    def main(self, *args: Any, **more: Any) -> Any:
        """Speak the user's language, on whatever terminal, and run a command."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(
                    errors="replace"
                )  # a terminal that knows ASCII alone costs an accent, not a run
        translation.use(interface_language())
        translate_help(self)
        _set_up_log()
        return super().main(*args, **more)

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        """Name a wrong option before the command as any other."""
        with _named():
            return super().make_context(*args, **more)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _named():
                return super().invoke(ctx)
        except UsageError as error:
            _fail(error, USAGE)
        except ServiceUnavailable as error:
            _fail(error, UNAVAILABLE)
        except (InstanceRejected, BacklogError) as error:
            _fail(error, FAILED)
        except OSError as error:
            if error.filename is None:
                raise  # a closed pipe, say, which click knows about
            _fail(UsageError(f"{error.filename}: {error.strerror}"), FAILED)


class _WrongUse(click.UsageError):
    """A wrong argument or option: what is wrong comes first, then how it is used."""

    def show(self, file: IO[Any] | None = None) -> None:
        del file  # it goes where all errors go
        click.echo(f"cxr-backlog: {self.message}", err=True)
        if self.ctx is not None:
            click.echo(self.ctx.get_usage(), err=True)
            more = t("Try '{command} --help' for help.").format(command=self.ctx.command_path)
            click.echo(more, err=True)


@contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise  # its message is the help
    except click.UsageError as error:
        raise _WrongUse(translated(error.format_message()), error.ctx) from error


def _set_up_log() -> None:
    """Let what the producer's modules warn of reach the user as a line, or a collector of logs as JSON."""
    if log_form() == "json" and not sys.stderr.isatty():
        set_up("json")
    else:
        set_up_terminal(lambda text: click.echo(translated(text), err=True))


def _fail(error: BaseException, status: int) -> NoReturn:
    text = str(error)
    if isinstance(error, UsageError):
        text = text.replace("\n", "?")  # in a file's name it would make a line that we never said
    click.echo(f"cxr-backlog: {translated(text)}", err=True)
    sys.exit(status)


def _print_version(ctx: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if asked:
        from importlib import metadata

        from backlog.version import build

        version = metadata.version("cxr-backlog")
        click.echo(t("cxr-backlog {version}, build {build}").format(version=version, build=build()))
        ctx.exit()


def _checked(command: click.Command) -> click.Command:
    """Have a command, or those of a group, refuse misspelt settings; the one that lists all settings helps then."""
    if isinstance(command, click.Group):
        for one in command.commands.values():
            _checked(one)
    elif command is not system.settings and command.callback is not None:
        command.callback = _with_names_checked(command.callback)
    return command


def _with_names_checked(callback: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(callback)
    def checked(*args: Any, **more: Any) -> Any:
        check_names()
        return callback(*args, **more)

    return checked


@click.group(cls=_Commands, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and the build.",
)
def main() -> None:
    """Score a backlog of chest radiographs and put one DICOM SR per image back into its study.

    SOURCE is a zip archive, a folder, the word 'orthanc', or modality:NAME, a PACS that Orthanc reaches over DICOM.
    """


for command in (
    plan.plan,
    run.run,
    run.resume,
    control.pause,
    control.cancel,
    status.status,
    runner.runs,
    runner.runner,
    items.items,
    items.quarantine,
    verify.verify,
    verify.retract,
    results.export,
    results.summary,
    gallery.gallery,
    validate.validate,
    compare.compare,
    verify.audit,
    system.inspect,
    system.doctor,
    system.settings,
    system.demo,
):
    main.add_command(_checked(command))


if __name__ == "__main__":
    main()
