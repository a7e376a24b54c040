"""A report as pages for people: a draft → the bytes of a PDF 1.4, without a library.

Nothing but text in the two Helveticas that every viewer brings. It says what the SR says, in the same words; of the
patient it says nothing: who it is stands in the DICOM attributes around it, where viewers look. No time of writing and
no random id is in it, so the same report gives the same bytes.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from worker.sr.content import Finding, ReportContent, score_text

#: A4, in points.
_WIDTH: Final = 595
_HEIGHT: Final = 842
_MARGIN: Final = 50
#: Where the columns of the table begin.
_COLUMNS: Final = (_MARGIN, 330, 410)
_ALARM: Final = (0.75, 0.0, 0.0)
_BLACK: Final = (0.0, 0.0, 0.0)

#: Widths of Helvetica's characters 32 to 126 in thousandths of the size (Adobe's metrics of the core 14 fonts).
_WIDTHS: Final = tuple(
    int(width)
    for width in (
        "278 278 355 556 556 889 667 191 333 333 389 584 278 333 278 278 556 556 556 556 556 556 556 556 556 556 "
        "278 278 584 584 584 556 1015 667 667 722 722 667 611 778 722 278 500 667 556 833 722 778 667 778 722 667 "
        "611 722 667 944 667 667 611 278 278 278 469 556 333 556 556 500 556 556 278 556 556 222 222 500 222 833 "
        "556 556 556 556 333 500 278 556 500 722 500 500 500 334 260 334 584"
    ).split()
)
#: Helvetica-Bold is nowhere wider than Helvetica by more than a sixth of a character in a sentence.
_BOLD: Final = 1.1


@dataclass(frozen=True)
class _Line:
    """One line of a page."""

    parts: tuple[tuple[int, str], ...]  #: (x, text)
    size: int = 10
    bold: bool = False
    colour: tuple[float, float, float] = _BLACK

    @property
    def height(self) -> int:
        return round(self.size * 1.4)


def write_pdf(report_content: ReportContent) -> bytes:
    """Return a report as a PDF."""
    pages = [_stream(page) for page in _paged(list(_lines(report_content)))]
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R /Lang (%s) >>" % report_content.words.language.value.encode(),
        b"<< /Type /Pages /Count %d /Kids [%s] >>"
        % (len(pages), b" ".join(b"%d 0 R" % (5 + 2 * i) for i in range(len(pages)))),
        *(
            b"<< /Type /Font /Subtype /Type1 /BaseFont /%s /Encoding /WinAnsiEncoding >>" % name
            for name in (b"Helvetica", b"Helvetica-Bold")
        ),
    ]
    for i, stream in enumerate(pages):
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 %d %d] /Contents %d 0 R "
            b"/Resources << /Font << /F1 3 0 R /F2 4 0 R >> >> >>" % (_WIDTH, _HEIGHT, 6 + 2 * i)
        )
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
    return _file(objects)


def _file(objects: Sequence[bytes]) -> bytes:
    """Number the objects and end with the table of where each begins (ISO 32000-1, 7.5)."""
    body = b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n"
    places = []
    for number, content in enumerate(objects, start=1):
        places.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    size = len(objects) + 1
    return body + (
        b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n"
        % (size, table, size, len(body))
    )


def _lines(report_content: ReportContent) -> Iterator[_Line]:
    phrases, source = report_content.words.phrases, report_content.source
    yield from _paragraph(report_content.series_description, 15, bold=True)
    yield from _paragraph(phrases["capture_banner"], 13, bold=True, colour=_ALARM)
    if not report_content.model.meaningful:
        yield from _paragraph(phrases["capture_meaningless"], 22, bold=True, colour=_ALARM)
    yield _Line(())
    day = f"{report_content.date[:4]}-{report_content.date[4:6]}-{report_content.date[6:]}"
    about = (
        (phrases["pdf_image"], source.sop_instance_uid),
        (phrases["pdf_study"], source.study_instance_uid),
        (phrases["pdf_model"], f"{report_content.model.name}, {report_content.model.version}"),
        (phrases["pdf_weights"], report_content.model.weights_sha256),
        (
            phrases["pdf_time"],
            f"{day} {report_content.time[:2]}:{report_content.time[2:4]}",
        ),
    )
    for name, value in about:
        yield _Line(((_MARGIN, name), (_MARGIN + 95, value)), 9)
    yield _Line(())
    yield _Line(
        tuple(zip(_COLUMNS, (phrases["capture_finding"], phrases["capture_score"], ""), strict=True)),
        bold=True,
    )
    for finding in by_score(report_content):
        yield _Line(tuple(zip(_COLUMNS, cells(report_content, finding), strict=True)), bold=finding.present)
    yield _Line(())
    for text in (report_content.narrative, *report_content.comments):
        yield from _paragraph(text, 10)
        yield _Line((), 5)


def cells(report_content: ReportContent, finding: Finding) -> tuple[str, str, str]:
    """Return a finding's row of the table: its name, its score as the summary writes it, what that means."""
    percent = "-" if finding.value is None else score_text(finding.value, report_content.words)
    name = report_content.words.findings[finding.label].name
    return name, percent, finding.state.meaning


def by_score(report_content: ReportContent) -> list[Finding]:
    """Return the findings as a reader wants them: the highest score first, what has none last."""
    return sorted(
        report_content.findings,
        key=lambda finding: (finding.value is None, -(finding.value or 0.0), finding.label),
    )


def _paragraph(
    text: str, size: int, *, bold: bool = False, colour: tuple[float, float, float] = _BLACK
) -> Iterator[_Line]:
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and _wide(longer, size, bold=bold) > _WIDTH - 2 * _MARGIN:
            yield _Line(((_MARGIN, line),), size, bold, colour)
            longer = word
        line = longer
    yield _Line(((_MARGIN, line),), size, bold, colour)


def _wide(text: str, size: int, *, bold: bool) -> float:
    """Return a text's width in points; an accent adds none to its letter."""
    plain = (unicodedata.normalize("NFD", letter)[0] for letter in text)
    total = sum(_WIDTHS[ord(letter) - 32] if " " <= letter <= "~" else 556 for letter in plain)
    return total * size / 1000 * (_BOLD if bold else 1)


def _paged(lines: Iterable[_Line]) -> Iterator[list[_Line]]:
    page: list[_Line] = []
    room = _HEIGHT - 2 * _MARGIN
    for line in lines:
        if line.height > room:
            yield page
            page, room = [], _HEIGHT - 2 * _MARGIN
        page.append(line)
        room -= line.height
    yield page


def _stream(page: Iterable[_Line]) -> bytes:
    """Return the drawing of one page."""
    y = _HEIGHT - _MARGIN
    drawn = []
    for line in page:
        y -= line.height
        colour = b"%.2f %.2f %.2f rg" % line.colour
        for x, text in line.parts:
            # cp1252 is WinAnsiEncoding; what it lacks is no letter of the languages that reports are written in.
            shown = text.encode("cp1252", "replace")
            for special in (b"\\", b"(", b")"):
                shown = shown.replace(special, b"\\" + special)
            drawn.append(
                b"BT %s /F%d %d Tf %d %d Td (%s) Tj ET"
                % (colour, 2 if line.bold else 1, line.size, x, y, shown)
            )
    return b"\n".join(drawn)
