"""What people see in a wide and in a narrow terminal: every count whole, in both languages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from backlog.outcomes import Reason
from tests.support.ended_runs import harvest, list_items, new_ledger, rejected, reported, some_scores
from tests.support.terminal import record

PROGRAM = str(Path(sys.executable).with_name("cxr-backlog"))


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that ended with 1,203 items: reported, skipped and quarantined ones."""
    out = tmp_path_factory.mktemp("terminal") / "out"
    ledger = new_ledger(out, place=str(out))
    list_items(ledger, 1203)
    harvest(
        ledger,
        lambda item: (
            rejected(Reason.LATERAL)
            if item % 10 == 0
            else rejected(Reason.UNDECODABLE, "no JPEG")
            if item % 100 == 1
            else reported(item, some_scores(item))
        ),
    )
    ledger.close()
    return out


@pytest.mark.parametrize(
    ("columns", "language", "words"),
    [
        (110, "en", "status --watch"),
        (46, "en", "status --watch"),
        (46, "pt-BR", "status --watch"),
        (46, "pt-BR", "quarantine"),
    ],
)
def test_counts_are_whole_at_every_width(ended: Path, columns: int, language: str, words: str) -> None:
    command, *options = words.split()
    lines = record(
        [PROGRAM, command, str(ended), *options],
        columns,
        cwd=ended.parent,
        settings={"CXR_LANGUAGE": language, "LC_ALL": "C.UTF-8"},
    )
    screen = "\n".join(lines)
    counts = ["13"] if command == "quarantine" else ["1203/1203", "1069", "121", "13"]
    for count in counts:
        assert count in screen.replace(",", "").replace(".", ""), screen
    assert "Traceback" not in screen
    assert "the command has ended: 0" in screen.replace("\n", " "), screen
