"""The help of every command, in the user's language."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import cleandoc
from typing import Any

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

    def write_heading(self, heading: str) -> None:
        super().write_heading(t(heading))


def translate_help(command: click.Command) -> None:
    """Have a command, and all below it, describe themselves in the language in use."""
    click.Context.formatter_class = _Formatter
    for one in commands(command):
        one.help = t(cleandoc(one.help)) if one.help else one.help
        one.epilog = t(one.epilog) if one.epilog else one.epilog
        for parameter in one.params:
            if isinstance(parameter, click.Option) and parameter.help:
                parameter.help = t(parameter.help)


def commands(command: click.Command) -> Iterator[click.Command]:
    """Yield a command and all below it."""
    yield command
    if isinstance(command, click.Group):
        for one in command.commands.values():
            yield from commands(one)


def help_messages(command: click.Command) -> Iterator[str]:
    """Yield every text of the help of a command and of all below it, in English."""
    yield from HEADINGS
    for one in commands(command):
        parameters: list[Any] = one.params
        texts = [one.help, one.epilog, *(getattr(parameter, "help", None) for parameter in parameters)]
        yield from (cleandoc(text) for text in texts if text)
