"""``validation.html``: a comparison with labels on one self-contained page, in English or Portuguese.

The curves are drawn by the template as SVG. Nothing on the page names an image or a patient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from typing import Final

from backlog.errors import UsageError
from backlog.model import PRODUCT
from backlog.output_file import OutputFile, begins_with
from producer.page.words import words_of
from producer.phrases import read_phrases
from producer.templates import environment_of
from producer.translation import catalogue
from producer.validation.compare import Comparison
from producer.validation.join import Joined
from producer.validation.metrics import Interval
from producer.validation.no_points import without_point
from producer.validation.validate import FindingFigures

_MARK: Final = "<!-- cxr-backlog validation -->"
is_own_page = begins_with(_MARK.encode())


@dataclass(frozen=True)
class About:
    """What was compared, for the page's head."""

    run: str
    model: str
    weights_sha256: str
    preprocessing: str
    meaningful: bool
    labels: str  #: the file's name
    form: str
    uncertain: str
    blank: str
    rule: str
    notes: tuple[str, ...]
    not_evaluated: tuple[str, ...] = ()  #: findings that the model was not trained on


def reason_said(message: Callable[[str], str], reason: str) -> str:
    """Return why a row of a table has no score, in another language.

    Parameters
    ----------
    message
        Translates a message.
    reason
        A sentence, or what became of the image: its outcome, and the keyword of the reason, which stays.
    """
    said = message(reason)
    if said != reason:
        return said
    outcome, colon, keyword = reason.partition(": ")
    return f"{message(outcome)}{colon}{keyword}"


def write_validation(
    to: OutputFile, about: About, joined: Joined, found: list[FindingFigures], language: str
) -> None:
    """Write the page of a comparison with labels.

    Parameters
    ----------
    to
        The page.
    about
        The run.
    joined
        Scores beside labels.
    found
        What was computed for each finding.
    language
        ``en`` or ``pt-BR``.

    Raises
    ------
    UsageError
        jinja2 is missing.
    StorageFull
        There is no room for the page.
    """
    without = without_point(found, about.not_evaluated) if about.rule else {}
    _write(to, "validation.html.j2", language, about=about, joined=joined, found=found, without=without)


def write_comparison(to: OutputFile, found: Comparison, language: str) -> None:
    """Write the page of two runs. Raises as :func:`write_validation`.

    Parameters
    ----------
    to
        The page.
    found
        What was computed.
    language
        ``en`` or ``pt-BR``.
    """
    _write(to, "comparison.html.j2", language, found=found)


def _write(to: OutputFile, template: str, language: str, **values: object) -> None:
    try:
        environment = environment_of("producer.validation")
    except ImportError as error:
        raise UsageError("the page needs jinja2: install cxr-backlog[validate]") from error
    comma = language == "pt-BR"
    environment.filters["number"] = lambda value, digits=3: _number(value, digits, comma=comma)
    environment.filters["interval"] = lambda value, digits=3: _interval(value, digits, comma=comma)
    environment.filters["finding"] = words_of(language).finding
    message = catalogue(language).message
    environment.filters["message"] = message
    environment.filters["reason"] = partial(reason_said, message)
    text = environment.get_template(template).render(
        mark=_MARK,
        words=read_phrases("producer.validation", language),
        language=language,
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        version=metadata.version(PRODUCT),
        **values,
    )
    with to.open_text(is_own_page) as file:
        file.write(text)


def _number(value: float | None, digits: int, *, comma: bool) -> str:
    if value is None or value != value:  # NaN
        return "–"
    text = f"{value:.{digits}f}"
    return text.replace(".", ",") if comma else text


def _interval(value: Interval | None, digits: int, *, comma: bool) -> str:
    if value is None:
        return "–"
    low, high = (_number(one, digits, comma=comma) for one in (value.low, value.high))
    return f"{_number(value.value, digits, comma=comma)} ({low}–{high})"
