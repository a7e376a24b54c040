"""``index.html`` in the folder of all runs: the way to each run's page, and to the rest of the stack.

It is served by the stack's viewer service (deploy/viewer) behind its log-in, and opens as a file too; its links to the
other services lead nowhere then. It names runs by their folders and nothing of their sources.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from backlog.errors import BacklogError
from backlog.output_file import OutputFile, begins_with
from producer.page.beside import PAGES, there
from producer.page.words import Words, words_of
from producer.runner.runs import RunInfo
from producer.templates import environment_of

ENTRY_FILE: Final = "index.html"

_MARK: Final = "<!-- cxr-backlog entry -->"
is_own_entry = begins_with(_MARK.encode())

#: Services behind the same log-in: address, and the phrase that names it.
_SERVICES: Final = (
    ("viewer/", "entry_viewer"),
    ("orthanc/app/explorer.html", "entry_orthanc"),
    ("flower/", "entry_flower"),
    ("grafana/", "entry_grafana"),
)


@dataclass(frozen=True)
class _Row:
    name: str
    state: str
    when: str
    ended: str
    quarantined: int
    missing: str  #: the queues without a worker, in a sentence
    links: list[tuple[str, str]]  #: address and text


class EntryPage:
    """Keeps the page up to date, where jinja2 is installed; writes only what has changed.

    Parameters
    ----------
    root
        The folder of all runs.
    language
        ``en`` or ``pt-BR``.
    """

    def __init__(self, root: Path, language: str) -> None:
        self._path = root / ENTRY_FILE
        self._root = root
        self._words = words_of(language)
        self._written = ""
        self._possible = importlib.util.find_spec("jinja2") is not None

    def show(self, runs: Sequence[RunInfo]) -> None:
        """Write the page for these runs. A file that is not ours, or a full disk, costs only the page."""
        if not self._possible:
            return
        text = self._text([_row(self._root, run, self._words) for run in reversed(runs)])
        if text == self._written and self._path.exists():
            return
        with suppress(BacklogError), OutputFile(self._path).open_text(is_own_entry) as file:
            file.write(text)
        self._written = text

    def _text(self, rows: list[_Row]) -> str:
        page = environment_of("producer.runner").get_template("entry.html.j2")
        services = [(address, self._words(phrase)) for address, phrase in _SERVICES]
        return page.render(mark=_MARK, _=self._words, services=services, rows=rows)


def _row(root: Path, run: RunInfo, words: Words) -> _Row:
    name = run.out.relative_to(root).as_posix()
    return _Row(
        name,
        words.message(run.state.value),
        run.when[:16].replace("T", " "),
        f"{run.ended} / {run.counts.total}",
        sum(run.counts.quarantined.values()),
        words("entry_missing", queues=", ".join(run.queues_without_worker))
        if run.queues_without_worker
        else "",
        [(f"runs/{quote(name)}/{page}", page) for page in there(run.out, PAGES)],
    )
