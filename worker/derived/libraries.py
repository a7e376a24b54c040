"""Which derived objects can be made here, by what is installed. Imports nothing of what it asks for."""

from __future__ import annotations

import importlib.util
from typing import Final

#: What each kind of derived object needs, by the name it is imported by.
_NEEDED: Final = {
    "capture": ("numpy", "gdcm", "PIL", "reportlab"),  # it is drawn from the pixels
    "pdf": ("reportlab",),
    "pdf-picture": ("numpy", "gdcm", "PIL", "reportlab"),
}


def kinds_made_here() -> list[str]:
    """Return the kinds of derived objects of which every library is installed."""
    return [
        kind
        for kind, names in _NEEDED.items()
        if all(importlib.util.find_spec(name) is not None for name in names)
    ]
