"""The help of every command, in the user's language."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from inspect import cleandoc

import click

from producer.translation import t

#: What click itself says around a command's help.
HEADINGS = (
    "Usage:",
    "Options",
    "Commands",
    "Arguments",
    "Show this message and exit.",
    "Show the version and exit.",
)


class _Formatter(click.HelpFormatter):
    """Writes click's own headings translated."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        super().write_usage(prog, args, f"{t('Usage:')} " if prefix is None else prefix)

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        super().write_dl([(name, t(text)) for name, text in rows], col_max, col_spacing)

    def write_heading(self, heading: str) -> None:
        super().write_heading(t(heading))


def translate_help(command: click.Command) -> None:
    """Have a command, and all below it, describe themselves in the language in use."""
    click.Context.formatter_class = _Formatter
    for owner, name, text in _english(command):
        setattr(owner, name, t(text))


#: What has a text in the help.
_Owner = click.Command | click.Parameter


@cache
def _english(command: click.Command) -> tuple[tuple[_Owner, str, str], ...]:
    """Return every text of the help as it was written, with who holds it and as what."""
    owners: list[tuple[_Owner, str]] = []
    for one in commands(command):
        owners += [(one, "help"), (one, "epilog")]
        owners += [(parameter, "help") for parameter in one.params if isinstance(parameter, click.Option)]
    return tuple(
        (owner, name, cleandoc(text)) for owner, name in owners if (text := getattr(owner, name, None))
    )


def commands(command: click.Command) -> Iterator[click.Command]:
    """Yield a command and all below it."""
    yield command
    if isinstance(command, click.Group):
        for one in command.commands.values():
            yield from commands(one)


def help_messages(command: click.Command) -> Iterator[str]:
    """Yield every text of the help of a command and of all below it, in English."""
    yield from HEADINGS
    yield from (text for _, _, text in _english(command))
