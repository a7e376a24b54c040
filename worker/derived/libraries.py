"""Whether the picture beside a report can be made here. Imports nothing of what it asks for."""

from __future__ import annotations

import importlib.util
from typing import Final

#: What drawing needs, by the name it is imported by.
_DRAWING: Final = ("numpy", "onnxruntime", "PIL", "matplotlib")


def can_draw() -> bool:
    """Whether everything is installed that the picture needs."""
    return all(importlib.util.find_spec(name) is not None for name in _DRAWING)
