"""A report as a PDF document, for viewers that show no structured report.

Laid out by reportlab. It says what the structured report says, in the same words, and of the patient what
stands in the image's header, as on any page of a study. The font is embedded: where a viewer takes another in
its place, lines run off the page. With the same version of reportlab the same report gives the same bytes: no
time of writing and no random identifier is in it.
"""

from __future__ import annotations

import io
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final
from xml.sax.saxutils import escape

from pydicom.valuerep import PersonName
from reportlab import rl_config
from reportlab.lib.colors import Color, black, lightgrey
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.platypus import Flowable, Image, Paragraph, SimpleDocTemplate, Spacer, Table, TableStyle

from backlog.model import PRODUCT
from worker.derived.fonts import BOLD, REGULAR, font_file
from worker.derived.table import cells
from worker.sr.content import ReportContent
from worker.sr.findings import by_score

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from reportlab.pdfgen.canvas import Canvas

_MARGIN: Final = 18 * mm
_WIDTH: Final = A4[0] - 2 * _MARGIN - 12  # reportlab's frames keep 6 points on each side
_ALARM: Final = Color(0.75, 0, 0)

# Streams as bytes: as text (ASCII85) they are a quarter larger, and a page with a picture takes 1.7 times the CPU time.
rl_config.useA85 = 0


def write_pdf(report_content: ReportContent, picture: NDArray[np.uint8] | None = None) -> bytes:
    """Return a report as a PDF.

    Parameters
    ----------
    report_content
        What the report says.
    picture
        (rows, columns, 3), of :func:`worker.derived.capture.draw`, for image and heat map on the page; None for none.

    Returns
    -------
    bytes
        A PDF of one or more A4 pages, with its fonts embedded.
    """
    _register_fonts()
    file = io.BytesIO()
    document = SimpleDocTemplate(
        file,
        pagesize=A4,
        leftMargin=_MARGIN,
        rightMargin=_MARGIN,
        topMargin=_MARGIN,
        bottomMargin=_MARGIN,
        title=report_content.series_description,
        author=PRODUCT,
        creator=PRODUCT,
        lang=report_content.words.language.value,
        invariant=1,
        initialFontName=REGULAR,  # else each page refers to Helvetica, which isn't embedded
    )
    foot = partial(_foot, report_content)
    flow = _flow(report_content, [] if picture is None else [_picture(picture), Spacer(1, 8)])
    document.build(flow, onFirstPage=foot, onLaterPages=foot)
    return file.getvalue()


@cache
def _register_fonts() -> None:
    for name in (REGULAR, BOLD):
        pdfmetrics.registerFont(TTFont(name, font_file(name)))
    pdfmetrics.registerFontFamily(REGULAR, normal=REGULAR, bold=BOLD, italic=REGULAR, boldItalic=BOLD)


def _style(size: float, *, bold: bool = False, colour: Color = black, after: float = 2) -> ParagraphStyle:
    return ParagraphStyle(
        f"{size}{bold}",
        fontName=BOLD if bold else REGULAR,
        fontSize=size,
        leading=size * 1.3,
        textColor=colour,
        spaceAfter=after,
        splitLongWords=True,
    )


def _text(text: str, style: ParagraphStyle) -> Paragraph:
    return Paragraph(escape(text), style)


def _picture(picture: NDArray[np.uint8]) -> Flowable:
    """Return image and heat map, as wide as the page's text."""
    from worker.derived.capture import jpeg_without_table  # Pillow

    jpeg, ratio = jpeg_without_table(picture)
    return Image(io.BytesIO(jpeg), width=_WIDTH, height=_WIDTH * ratio)


def _flow(report_content: ReportContent, pictures: list[Flowable]) -> list[Flowable]:
    """Return what stands on the pages, from the top."""
    phrases = report_content.words.phrases
    flow: list[Flowable] = [
        _text(report_content.series_description, _style(14, bold=True)),
        _text(phrases["capture_banner"], _style(11, bold=True, colour=_ALARM, after=4)),
    ]
    if not report_content.model.meaningful:
        flow.append(_text(phrases["capture_meaningless"], _style(20, bold=True, colour=_ALARM, after=6)))
    flow += [
        _pairs(_patient(report_content)),
        Spacer(1, 8),
        _text(report_content.narrative, _style(10, after=8)),
        *pictures,
    ]
    flow.append(_scores(report_content))
    flow.append(Spacer(1, 8))
    flow += [_text(comment, _style(9, after=4)) for comment in report_content.comments]
    return [*flow, Spacer(1, 4), _pairs(_origin(report_content), 7.5)]


def _patient(report_content: ReportContent) -> list[tuple[str, str]]:
    """Return whose image it is, in the words of its header; what the header leaves empty stays empty."""
    phrases, source = report_content.words.phrases, report_content.source
    copied = source.copied_attributes
    name, unshown = copied.get("PatientName", ""), phrases["pdf_unshown"]
    birth_and_sex = (_day(copied.get("PatientBirthDate", "")), copied.get("PatientSex", ""))
    rows = (
        ("pdf_patient", _first_shown(_written_name(name)) if name else ""),
        ("pdf_patient_id", source.patient_id.strip()),
        ("pdf_birth", "  ".join(part for part in birth_and_sex if part)),
        ("pdf_study_date", _day(copied.get("StudyDate", ""))),
        ("pdf_accession", copied.get("AccessionNumber", "")),
    )
    return [
        (phrases[key], unshown if value is None or not _can_show(value) else value) for key, value in rows
    ]


def _origin(report_content: ReportContent) -> list[tuple[str, str]]:
    phrases, source, model = report_content.words.phrases, report_content.source, report_content.model
    moment = f"{_day(report_content.date)} {report_content.time[:2]}:{report_content.time[2:4]}"
    return [
        (phrases["pdf_image"], source.sop_instance_uid),
        (phrases["pdf_study"], source.study_instance_uid),
        (phrases["pdf_model"], f"{model.name}, {model.version}"),
        (phrases["pdf_weights"], model.weights_sha256),
        (phrases["pdf_time"], moment),
    ]


def _day(date: str) -> str:
    """Return a DA as ISO 8601 writes it."""
    return f"{date[:4]}-{date[4:6]}-{date[6:8]}" if len(date) == 8 else date


def _written_name(name: str) -> list[str]:
    """Return a PN's alphabetic, ideographic and phonetic group (PS3.5 6.2.1.2), each as a page writes it."""
    groups = []
    for group in name.split("="):
        parts = PersonName(group)
        given = " ".join(part for part in (parts.name_prefix, parts.given_name, parts.middle_name) if part)
        groups.append(", ".join(part for part in (parts.family_name, given, parts.name_suffix) if part))
    return [group for group in groups if group]


def _first_shown(groups: list[str]) -> str | None:
    """Return the first group whose every letter is in the font; a name with holes in it could be another's."""
    return next((group for group in groups if _can_show(group)), None)


def _can_show(text: str) -> bool:
    _register_fonts()
    letters = pdfmetrics.getFont(REGULAR).face.charToGlyph
    return all(ord(letter) in letters for letter in text)


def _pairs(rows: list[tuple[str, str]], size: float = 9) -> Table:
    """Return names with their values, in two columns; a long value goes on in the next line."""
    name, value = _style(size, bold=True, after=0), _style(size, after=0)
    table = Table(
        [[_text(left, name), _text(right, value)] for left, right in rows],
        colWidths=[0.24 * _WIDTH, 0.76 * _WIDTH],
        hAlign="LEFT",
    )
    table.setStyle(TableStyle([*_TIGHT, ("VALIGN", (0, 0), (-1, -1), "TOP")]))
    return table


_TIGHT: Final[list[tuple[Any, ...]]] = [
    ("FONTNAME", (0, 0), (-1, -1), REGULAR),  # set for each cell, whatever its paragraph is set in
    ("LEFTPADDING", (0, 0), (-1, -1), 0),
    ("TOPPADDING", (0, 0), (-1, -1), 1),
    ("BOTTOMPADDING", (0, 0), (-1, -1), 1),
]


def _scores(report_content: ReportContent) -> Table:
    phrases = report_content.words.phrases
    head = _style(9, bold=True, after=0)
    rows = [[_text(phrases[key] if key else "", head) for key in ("capture_finding", "capture_score", "")]]
    for finding in by_score(report_content.findings):
        style = _style(9, bold=finding.present, after=0)
        rows.append([_text(cell, style) for cell in cells(report_content, finding)])
    table = Table(rows, colWidths=[0.5 * _WIDTH, 0.15 * _WIDTH, 0.35 * _WIDTH], repeatRows=1, hAlign="LEFT")
    table.setStyle(TableStyle([*_TIGHT, ("LINEBELOW", (0, 0), (-1, -1), 0.25, lightgrey)]))
    return table


def _foot(report_content: ReportContent, canvas: Canvas, document: SimpleDocTemplate) -> None:
    """Write at the foot of each page what it is: pages are printed and parted."""
    phrases = report_content.words.phrases
    mark = phrases["capture_mark" if report_content.model.meaningful else "capture_meaningless"]
    canvas.setFont(BOLD, 8)
    canvas.setFillColor(_ALARM)
    canvas.drawString(_MARGIN + 6, _MARGIN / 2, mark)
    canvas.setFillColor(black)
    canvas.drawRightString(A4[0] - _MARGIN - 6, _MARGIN / 2, str(document.page))
