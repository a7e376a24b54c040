"""The picture beside a report: the image, a heat map of the highest finding, the table of scores.

Drawn with Pillow. What it means stands in the pixels, on each of its parts, since a picture is
cut and copied without its attributes. Pure: the same input gives the same pixels, with the same Pillow.
"""

from __future__ import annotations

import io
import math
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from worker.derived.fonts import REGULAR, font_file
from worker.derived.table import cells
from worker.sr.findings import by_score

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from worker.sr.content import ReportContent

#: Pixels on a side of each of the two pictures.
SIDE: Final = 640
_TABLE: Final = 550
GAP: Final = 16
TOP: Final = 92
_BOTTOM: Final = 104
_WIDTH: Final = 2 * SIDE + _TABLE + 4 * GAP
_HEIGHT: Final = TOP + SIDE + _BOTTOM

_GROUND: Final = (16, 16, 16)
_TEXT: Final = (235, 235, 235)
_DIM: Final = (170, 170, 170)
ALARM: Final = (255, 90, 80)
#: Most of the heat map's colour that covers the image.
_OPACITY: Final = 0.55


def draw(
    report_content: ReportContent, shown: NDArray[np.uint8], maps: Mapping[str, bytes]
) -> NDArray[np.uint8]:
    """Draw one picture.

    Parameters
    ----------
    report_content
        What the report says.
    shown
        (N, N), the square that the model sees, in grey.
    maps
        By label, where its score is raised: levels of the square's cells, row by row. Of the findings that have one,
        that of the highest score is shown.

    Returns
    -------
    NDArray[np.uint8]
        (rows, columns, 3), RGB.
    """
    phrases = report_content.words.phrases
    canvas = Image.new("RGB", (_WIDTH, _HEIGHT), _GROUND)
    pen = ImageDraw.Draw(canvas)
    highest = max(
        (index for index, finding in enumerate(report_content.findings) if finding.label in maps),
        key=lambda index: report_content.findings[index].value or 0.0,
    )
    heat = _heat(maps[report_content.findings[highest].label])
    grey = Image.fromarray(shown).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    left, right = GAP, 2 * GAP + SIDE
    canvas.paste(grey, (left, TOP))
    canvas.paste(_overlaid(grey, heat), (right, TOP))
    name, percent, _ = cells(report_content, report_content.findings[highest])
    caption = phrases["capture_heat" if heat.any() else "capture_no_heat"].format(finding=name, score=percent)
    _line(pen, (left, 10), phrases["capture_banner"], 30, ALARM, _WIDTH - 2 * GAP)
    _line(pen, (left, 58), phrases["capture_image"], 20, _TEXT, SIDE)
    _line(pen, (right, 58), caption, 20, _TEXT, SIDE)
    mark = phrases["capture_mark" if report_content.model.meaningful else "capture_meaningless"]
    for x in (left, right):
        _stamp(pen, x, mark, 26 if report_content.model.meaningful else 40)
    _table(pen, report_content, highest)
    _footer(pen, report_content)
    return np.asarray(canvas)


def jpeg_without_table(picture: NDArray[np.uint8]) -> tuple[bytes, float]:
    """Return image and heat map of a drawn picture, for a page with its own table: a JPEG, height over width.

    Parameters
    ----------
    picture
        (rows, columns, 3), of :func:`draw`.
    """
    pixels = picture[TOP - 44 : TOP + SIDE + GAP, : 2 * SIDE + 3 * GAP].copy()
    # The frame of the table's highest row reaches into the margin.
    pixels[:, 2 * SIDE + 2 * GAP :] = _GROUND
    shown = Image.fromarray(pixels)
    file = io.BytesIO()
    shown.save(file, "JPEG", quality=90)
    return file.getvalue(), shown.height / shown.width


def _heat(levels: bytes) -> NDArray[np.float32]:
    cells = math.isqrt(len(levels))
    return np.frombuffer(levels, np.uint8).reshape(cells, cells).astype(np.float32) / np.float32(255)


def _overlaid(grey: Image.Image, heat: NDArray[np.float32]) -> Image.Image:
    """Lay an (n, n) map in [0, 1] over an image: yellow where it begins, red where it is strongest."""
    smooth = Image.fromarray(heat).resize(grey.size, Image.Resampling.BILINEAR)
    strength = np.clip(np.asarray(smooth), 0, 1)[..., None]
    red, green = np.full_like(strength, 255), 230 * (1 - strength)
    colour = np.concatenate([red, green, np.zeros_like(strength)], axis=2)
    share = _OPACITY * strength
    mixed = np.asarray(grey, np.float32)[..., None] * (1 - share) + colour * share
    return Image.fromarray(np.round(mixed).astype(np.uint8))


@cache
def load_font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font of the pictures, in a size in pixels."""
    # The basic layout is the same on every machine; the other one depends on a library of the system's.
    return ImageFont.truetype(font_file(REGULAR), size, layout_engine=ImageFont.Layout.BASIC)


def _line(
    pen: ImageDraw.ImageDraw,
    at: tuple[int, int],
    text: str,
    size: int,
    colour: tuple[int, int, int],
    room: int,
) -> None:
    """Write one line, smaller where it would be wider than there is room."""
    while size > 8 and pen.textlength(text, load_font(size)) > room:
        size -= 1
    pen.text(at, text, colour, load_font(size))


def _stamp(pen: ImageDraw.ImageDraw, x: int, text: str, size: int) -> None:
    """Write across the foot of a picture, outlined so that it reads on black as on white."""
    while size > 8 and pen.textlength(text, load_font(size)) > SIDE - 40:
        size -= 1
    place = (x + SIDE // 2, TOP + SIDE - 14)
    pen.text(place, text, ALARM, load_font(size), anchor="ms", stroke_width=2, stroke_fill=(0, 0, 0))


def _table(pen: ImageDraw.ImageDraw, report_content: ReportContent, highest: int) -> None:
    phrases = report_content.words.phrases
    x, step = 3 * GAP + 2 * SIDE, SIDE // 20
    _line(pen, (x, 58), phrases["capture_finding"], 20, _TEXT, 250)
    pen.text((x + 400, 58), phrases["capture_score"], _TEXT, load_font(20), anchor="ra")
    for row, finding in enumerate(by_score(report_content.findings)):
        y = TOP + 4 + row * step
        colour = _TEXT if finding.present else _DIM
        if finding is report_content.findings[highest]:
            pen.rectangle((x - 6, y - 4, x + _TABLE, y + step - 6), outline=ALARM)
        name, percent, state = cells(report_content, finding)
        _line(pen, (x, y), name, 18, colour, 320)
        pen.text((x + 400, y), percent, colour, load_font(18), anchor="ra")
        _line(pen, (x + 415, y), state, 18, colour, _TABLE - 415)
    if not report_content.model.meaningful:
        _line(pen, (x, TOP + 18 * step + 12), phrases["capture_meaningless"], 30, ALARM, _TABLE)


def _footer(pen: ImageDraw.ImageDraw, report_content: ReportContent) -> None:
    """Write the disclaimer and what made the scores, in as many lines as it takes."""
    model = report_content.model
    made = f"{model.name}, {model.version}, weights {model.weights_sha256[:16]}"
    line, y = "", TOP + SIDE + 12
    font = load_font(17)
    for word in f"{report_content.words.phrases['disclaimer']} {made}".split():
        longer = f"{line} {word}".strip()
        if pen.textlength(longer, font) > _WIDTH - 2 * GAP:
            pen.text((GAP, y), line, _DIM, font)
            y += 24
            longer = word
        line = longer
    pen.text((GAP, y), line, _DIM, font)
