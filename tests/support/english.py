"""Words of English in what should be Portuguese."""

from __future__ import annotations

import html
import re
from functools import cache

from backlog.model import LABELS
from producer.phrases import read_phrases
from producer.translation import catalogue

#: Packages whose pages have sentences of their own.
PAGES = ("producer.page", "producer.validation", "producer.gallery")

#: A word that stands alone, and is no part of a name, a path, an option or a setting.
_WORD = re.compile(r"(?<![\w./:=@<{'-])[A-Za-z]{2,}(?:'[a-z]+)?(?![\w/=@}'-]|\.\w)")

#: What stands for itself in every language: names of commands, columns, packages and codings, and words of headers.
_SAME = frozenset(
    "lateral zip in status reader image sop instance uid chest main options command gallery open requests site".split()
)


@cache
def only_english() -> frozenset[str]:
    """Return the words that our English sentences have and our Portuguese ones have not."""
    english, other = set[str](), set[str]()
    for source, target in catalogue("pt-BR").plain.items():
        english |= _words(source)
        other |= _words(target)
    for package in PAGES:
        for key, phrase in read_phrases(package, "en").items():
            if not key.startswith("finding_"):
                english |= _words(phrase)
        for phrase in read_phrases(package, "pt-BR").values():
            other |= _words(phrase)
    labels = {word for label in LABELS for word in _words(label.replace("_", " "))}
    return frozenset(english - other - labels - _SAME)


def english_in(text: str) -> list[str]:
    """Return the words of a terminal's text that only English has, with their lines."""
    return [
        f"{word}: {line.strip()}"
        for line in text.splitlines()
        for word in sorted(_words(line) & only_english())
    ]


def english_on(page: str) -> list[str]:
    """Return the words of a page that only English has: of its text and of what a screen reader reads."""
    page = re.sub(r"<(style|script|code)\b.*?</\1>", " ", page, flags=re.DOTALL)
    read = re.findall(r'(?:aria-label|title|alt)="([^"]*)"', page)
    text = re.sub(r"<[^>]*>", "\n", page)
    return english_in(html.unescape("\n".join([*read, text])))


def _words(text: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(text)}
