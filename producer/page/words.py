"""What the summary page says, in English or Portuguese: its sentences, numbers and times."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

from producer.phrases import read_phrases
from producer.translation import catalogue


@dataclass(frozen=True)
class Words:
    """The words of one language.

    Parameters
    ----------
    language
        ``en`` or ``pt-BR``.
    phrases
        Of ``phrases.tsv``, by key.
    """

    language: str
    phrases: dict[str, str]

    def __call__(self, key: str, **values: object) -> str:
        """Return a phrase with its values in it."""
        return self.phrases[key].format(**values)

    def finding(self, label: str) -> str:
        """Return the name of a finding: in English the label, as ``scores.csv`` has it."""
        return label.replace("_", " ") if self.language == "en" else self(f"finding_{label}")

    def message(self, text: str) -> str:
        """Return a finished English message, as the ledger keeps it, in this language."""
        return catalogue(self.language).message(text)

    def number(self, value: float | None, digits: int) -> str:
        """Return a number with so many decimals; a dash where there is none."""
        return "–" if value is None else self._localised(f"{value:.{digits}f}")

    def plain(self, value: float) -> str:
        """Return a number with as many decimals as it needs."""
        return self._localised(f"{value:g}")

    def percent(self, share: float) -> str:
        """Return a share as a percentage with one decimal."""
        return f"{self.number(100 * share, 1)} %"

    def milliseconds(self, value: float) -> str:
        """Return a time of one image in a unit that fits it."""
        if value >= 10_000:
            return f"{self.number(value / 1000, 1)} s"
        return f"{self.number(value, 1 if value < 10 else 0)} ms"

    def duration(self, seconds: float) -> str:
        """Return a length of time in its two largest units."""
        hours, rest = divmod(round(seconds), 3600)
        minutes, rest = divmod(rest, 60)
        return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"

    def span(self, seconds: int) -> str:
        """Return the width of a bar over time: ``minute``, ``10 minutes``."""
        sizes = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
        size, name = next((size, name) for size, name in sizes if seconds % size == 0)
        count = seconds // size
        return self(name) if count == 1 else f"{count} {self(f'{name}s')}"

    def clock(self, at: float, width: int) -> str:
        """Return a time in UTC as short as bars of a width, in seconds, need it."""
        form = "%H:%M:%S" if width < 60 else "%H:%M" if width < 3600 else self.phrases["day_and_hour"]
        return datetime.fromtimestamp(at, UTC).strftime(form)

    def moment(self, at: float) -> str:
        """Return a time in UTC to the second."""
        return datetime.fromtimestamp(at, UTC).strftime(self.phrases["moment"])

    def _localised(self, number: str) -> str:
        return number.replace(".", ",") if self.language == "pt-BR" else number


@cache
def words_of(language: str) -> Words:
    """Return the words of a language, ``en`` or ``pt-BR``."""
    return Words(language, read_phrases("producer.page", language))
