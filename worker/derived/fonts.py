"""The font of what is drawn: Bitstream Vera, which reportlab brings along and whose licence allows embedding.

It has the letters of the Latin alphabets; Pillow's own font has no accented letter.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Final

from backlog.errors import UsageError

REGULAR: Final = "Vera"
BOLD: Final = "VeraBd"


@cache
def font_file(name: str) -> Path:
    """Return where a font lies.

    Parameters
    ----------
    name
        :data:`REGULAR` or :data:`BOLD`.

    Raises
    ------
    UsageError
        reportlab is not installed.
    """
    found = importlib.util.find_spec("reportlab")  # not imported: a picture needs none of its code
    if found is None or found.origin is None:
        raise UsageError("drawing needs a font: install cxr-backlog[derived]")
    return Path(found.origin).parent / "fonts" / f"{name}.ttf"
