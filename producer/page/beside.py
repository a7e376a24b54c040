"""What a run's folder may hold for people: what the summary and the entry page link, and the viewer's nginx serves."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

#: Beside the summary page: by the path in the run's folder, the phrase that says what it is. `validate` and `compare`
#: write into folders of their own there, and with ``--to OUT`` beside the others.
FILES: Final = {
    "scores.csv": "file_scores",
    "summary.json": "file_summary",
    "audit.jsonl": "file_audit",
    "gallery.html": "file_gallery",
    "validation/validation.html": "file_validation",
    "validation.html": "file_validation",
    "comparison/comparison.html": "file_comparison",
    "comparison.html": "file_comparison",
}

#: What a browser or a spreadsheet opens, in the order in which the entry page offers it.
PAGES: Final = ("summary.html", *(name for name in FILES if name.endswith(".html")), "scores.csv")


def there(folder: Path, names: Iterable[str]) -> list[str]:
    """Return which of these files a run's folder holds."""
    return [name for name in names if (folder / name).is_file()]
