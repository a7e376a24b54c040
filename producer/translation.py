"""What a user reads, in the user's language: English, or that of a catalogue in ``producer/locale``.

Most messages are finished texts when they come here: an error's from deep inside or from another process, a detail
that a worker in another country wrote into the ledger. They are English there, as data, and are translated where they
are shown. So the catalogue's templates, as ``{path}: no such file``, are matched against finished texts, the most
specific first, and what stood in the braces is carried over, translated itself where it is a message.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

#: Where the catalogues are, one for each language.
FOLDER: Final = Path(__file__).parent / "locale"

#: What stands for a value in a message, as in an f-string.
PLACEHOLDER: Final = re.compile(r"\{(\w+)\}")

#: Control characters but tab and line feed: an escape sequence from a worker or a file's name could rewrite the screen.
#: Marks of writing direction too (Unicode 9, bidirectional controls), which show a name in another order than it has.
_CONTROLS: Final = dict.fromkeys(
    {*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C}
    - {ord("\t"), ord("\n")},
    "?",
)

#: Languages that write 72,2 and 1.000 where English writes 72.2 and 1,000.
_DECIMAL_COMMA: Final = ("pt-BR",)
_SWAPPED: Final = str.maketrans(",.", ".,")

#: How deep messages are looked for inside messages.
_MOST_NESTED: Final = 4


@dataclass(frozen=True)
class Template:
    """One message with values in it, and its translation."""

    source: str
    target: str
    pattern: re.Pattern[str]
    literals: tuple[str, ...]  #: what stands between the values

    @classmethod
    def of(cls, source: str, target: str) -> Template:
        """Build the pattern of a message."""
        parts = PLACEHOLDER.split(source)
        literals = parts[0::2]
        met: set[str] = set()
        pattern = ""
        for at, part in enumerate(parts):
            if at % 2 == 0:
                pattern += re.escape(part)
            else:
                pattern += f"(?P={part})" if part in met else f"(?P<{part}>.*?)"
                met.add(part)
        return cls(source, target, re.compile(pattern, re.DOTALL), tuple(filter(None, literals)))

    @property
    def specificity(self) -> int:
        """How much of the message is not a value."""
        return sum(map(len, self.literals))


@dataclass(frozen=True)
class Catalogue:
    """The messages of one language."""

    plain: dict[str, str] = field(default_factory=dict)
    templates: tuple[Template, ...] = ()
    decimal_comma: bool = False

    @classmethod
    def of(cls, messages: Iterable[tuple[str, str]], *, decimal_comma: bool = False) -> Catalogue:
        """Build from (English, translation) pairs; what is not translated yet stays English."""
        known = {source: target for source, target in messages if target}
        templates = [Template.of(*one) for one in known.items() if PLACEHOLDER.search(one[0])]
        return cls(known, tuple(sorted(templates, key=lambda one: -one.specificity)), decimal_comma)

    def message(self, text: str, depth: int = _MOST_NESTED) -> str:
        """Translate a finished message; returned as it is where the catalogue has none like it."""
        if text in self.plain:
            return self.plain[text]
        if not depth or not text.strip():
            return text
        for template in self.templates:
            if any(literal not in text for literal in template.literals):
                continue
            found = template.pattern.fullmatch(text)
            if found is not None:
                return self._filled(template, found.groupdict(), depth - 1)
        return text

    def _filled(self, template: Template, values: dict[str, str], depth: int) -> str:
        return PLACEHOLDER.sub(lambda one: self.message(values[one[1]], depth), template.target)


_ENGLISH: Final = Catalogue()
_current: list[Catalogue] = [_ENGLISH]


@cache
def catalogue(language: str) -> Catalogue:
    """Return the catalogue of a language, as ``pt-BR``; that of English is empty."""
    path = FOLDER / f"{language.replace('-', '_')}.po"
    if language == "en" or not path.exists():
        return _ENGLISH
    import polib  # takes 20 ms

    return Catalogue.of(
        ((entry.msgid, entry.msgstr) for entry in polib.pofile(str(path)) if not entry.obsolete),
        decimal_comma=language in _DECIMAL_COMMA,
    )


def use(language: str) -> None:
    """Speak this language from now on, in this process."""
    _current[0] = catalogue(language)


def t(text: str) -> str:
    """Translate a message, or a template before its values are put in: ``t("{count} rows").format(count=3)``."""
    return _current[0].plain.get(text, text)


def decimal(value: float, digits: int, form: str = "") -> str:
    """Return a number as people write it in the user's language; what programs read is never written so.

    Parameters
    ----------
    value
        The number.
    digits
        How many decimals it has.
    form
        Of a format specification, what stands before these: ``,`` parts thousands, ``+`` shows the sign.
    """
    text = f"{value:{form}.{digits}f}"
    return text.translate(_SWAPPED) if _current[0].decimal_comma else text


def translated(text: str) -> str:
    """Translate a finished message, line by line where it is none as a whole; without what a terminal would obey."""
    text = text.translate(_CONTROLS)
    whole = _current[0].message(text)
    if whole != text or "\n" not in text:
        return whole
    return "\n".join(_current[0].message(line) for line in text.split("\n"))


def missing(messages: Iterable[str], language: str) -> Iterator[str]:
    """Yield the messages that a language's catalogue lacks."""
    known = catalogue(language).plain
    return (message for message in messages if message not in known)
