"""``gallery.html``: selected images on one self-contained page, in English or Portuguese.

All that comes from a header or a ledger reaches the page as JSON and is shown as text, never as markup. The page's own
script is the only one that its Content Security Policy allows, and it may load nothing.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata, resources
from typing import TYPE_CHECKING, Final, TypedDict

from backlog.broker.job import model_of, points_of
from backlog.errors import UsageError
from backlog.model import LABELS, PRODUCT
from backlog.output_file import OutputFile, begins_with
from producer.gallery.images import Picture, Pictures
from producer.gallery.selection import Wanted
from producer.page.words import words_of
from producer.phrases import read_phrases
from producer.templates import environment_of
from producer.translation import catalogue
from producer.viewer_link import ViewerLink

if TYPE_CHECKING:
    from backlog.broker.job import Job

_MARK: Final = "<!-- cxr-backlog gallery: patients' images -->"
is_own_gallery = begins_with(_MARK.encode())


@dataclass(frozen=True)
class About:
    """What the page is about."""

    job: Job
    model: str
    wanted: Wanted
    notes: tuple[str, ...]

    @property
    def points(self) -> list[float]:
        """From which score on each finding counts as present, in the order of `backlog.model.LABELS`."""
        return points_of(self.job)


class _Image(TypedDict):
    """An image, as the page's script has it (gallery.js)."""

    item: int
    sop: str
    study: str
    scores: list[float | None]
    flags: list[str]
    link: str
    names: dict[str, str] | None
    width: int
    height: int
    contrast: str
    heat: str
    cells: int
    other_scores: bool


class _Data(TypedDict):
    """What the page's script works with."""

    run: str
    language: str
    labels: list[str]
    findings: list[str]  #: their names in the page's language
    evaluated: list[bool]
    points: list[float]
    finding: int | None
    words: dict[str, str]
    images: list[_Image]


def need_page() -> None:
    """Raise UsageError where the library of the page is missing: before the images are drawn."""
    if importlib.util.find_spec("jinja2") is None:
        raise UsageError("the page needs jinja2: install cxr-backlog[page]")


def write_gallery(
    to: OutputFile,
    about: About,
    pictures: Pictures,
    names: dict[int, dict[str, str]] | None,
    link: ViewerLink,
    language: str,
) -> None:
    """Write the page.

    Parameters
    ----------
    to
        Must be private: it holds patients' images.
    about
        The run and the selection, for the page's head.
    pictures
        What was drawn.
    names
        What identifies each image, by item; None where the user did not ask for it.
    link
        Gives the address of an image in a viewer.
    language
        ``en`` or ``pt-BR``.

    Raises
    ------
    StorageFull
        There is no room for the page.
    """
    assert to.private  # noqa: S101  # see above
    words, said = read_phrases("producer.gallery", language), catalogue(language)
    script, style = _own("gallery.js"), _own("gallery.css")
    parts = (
        environment_of("producer.gallery")
        .get_template("gallery.html.j2")
        .generate(
            mark=_MARK,
            words=words,
            language=language,
            about=about,
            selection=_selection(about.wanted, words, language),
            named=names is not None,
            pictures=pictures,
            no_heat_maps=said.message(pictures.no_heat_maps),
            notes=[said.message(note) for note in about.notes],
            data=_data(about, pictures, names, link, words, language),
            script=script,
            style=style,
            policy=f"default-src 'none'; img-src data:; script-src {_hash(script)}; style-src {_hash(style)};"
            " base-uri 'none'; form-action 'none'",
            written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            version=metadata.version(PRODUCT),
        )
    )
    with to.open_text(is_own_gallery) as file:
        for part in parts:
            file.write(part)


def _own(name: str) -> str:
    return resources.files("producer.gallery").joinpath(name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    """Return how a Content Security Policy names a script or style by its content."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode('ascii')}'"


def _selection(wanted: Wanted, words: dict[str, str], language: str) -> str:
    """Say in a line how the images were chosen."""
    parts = []
    if wanted.listed is not None:
        parts.append(words["by_list"].format(file=wanted.listed.name))
    elif wanted.sample:
        parts.append(words["by_sample"].format(count=wanted.sample))
    elif wanted.finding:
        parts.append(words["by_finding"].format(finding=words_of(language).finding(wanted.finding)))
    if wanted.flag:
        parts.append(words["by_flag"].format(flag=wanted.flag))
    return "; ".join(parts)


def _data(
    about: About,
    pictures: Pictures,
    names: dict[int, dict[str, str]] | None,
    link: ViewerLink,
    words: dict[str, str],
    language: str,
) -> _Data:
    """Return what the page's script works with."""
    return {
        "run": about.job["run"],
        "language": language,
        "labels": list(LABELS),
        "findings": [words_of(language).finding(label) for label in LABELS],
        "evaluated": list(model_of(about.job).evaluated),
        "points": about.points,
        "finding": LABELS.index(about.wanted.finding) if about.wanted.finding else None,
        "words": words,
        "images": [
            _image(one, None if names is None else names.get(one.row.no, {}), link) for one in pictures.shown
        ],
    }


def _image(one: Picture, names: dict[str, str] | None, link: ViewerLink) -> _Image:
    return {
        "item": one.row.no,
        "sop": one.row.sop_instance_uid,
        "study": one.row.study_instance_uid,
        "scores": one.row.score_list,
        "flags": one.row.flags.split(),
        "link": link.to(one.row),
        "names": names,
        "width": one.width,
        "height": one.height,
        "contrast": one.contrast,
        "heat": one.heat,
        "cells": one.cells,
        "other_scores": one.other_scores,
    }
