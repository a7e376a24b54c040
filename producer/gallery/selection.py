"""Which images of a run a gallery shows."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final

from backlog.broker.job import model_of
from backlog.errors import UsageError
from backlog.inputs.key_table import Key, key_columns, key_of
from backlog.inputs.table_file import opened_table
from backlog.model import LABELS
from backlog.outcomes import Flag
from producer.ledger.rows import ITEM_COLUMNS, ItemRow

if TYPE_CHECKING:
    from producer.ledger.ledger import Ledger

#: Most images of one page: more would take a browser long to open, and nobody judges more at a sitting.
MAX_IMAGES: Final = 500
#: Images of a page where nobody says how many.
DEFAULT_TOP: Final = 50

#: A flag is one of the words of a column.
_MATCHING: Final = " FROM item WHERE outcome = 'reported' AND instr(' ' || flags || ' ', ?)"
_IMAGES: Final = f"SELECT {ITEM_COLUMNS}{_MATCHING}"
_COUNT: Final = "SELECT count(*)" + _MATCHING
_NUMBERS: Final = "SELECT no" + _MATCHING + " ORDER BY no"

_UID: Final = re.compile(r"[0-9.]{1,64}")

#: What a list may name images by, the best first.
_KEYS: Final = (Key.SOP_INSTANCE_UID, Key.STUDY_INSTANCE_UID)


@dataclass(frozen=True)
class Wanted:
    """What the user asks for: one of a finding's highest scores, a flag, a sample, a list."""

    finding: str = ""  #: of `backlog.model.LABELS`
    flag: str = ""
    top: int = 0
    sample: int = 0
    listed: Path | None = None


@dataclass(frozen=True)
class Chosen:
    """The ledger's rows of the images that are shown, in order, and what is to be said of the choice."""

    rows: list[ItemRow]
    notes: list[str] = field(default_factory=list)


def find_label(name: str) -> str:
    """Return the model's finding of a name, written in any case, with space or underscore.

    Raises
    ------
    UsageError
        The model has none such.
    """
    known = {_folded(label): label for label in LABELS}
    if _folded(name) not in known:
        raise UsageError(f"{name!r} is no finding of this model: it has {', '.join(LABELS)}")
    return known[_folded(name)]


def find_flag(name: str) -> str:
    """Return the flag of a name.

    Raises
    ------
    UsageError
        There is none such.
    """
    known = {_folded(flag.value): flag.value for flag in Flag}
    if _folded(name) not in known:
        raise UsageError(f"{name!r} is no flag; there are {', '.join(sorted(known.values()))}")
    return known[_folded(name)]


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


def choose(ledger: Ledger, wanted: Wanted) -> Chosen:
    """Choose images among those that have a report.

    Raises
    ------
    UsageError
        None matches, the list can't be read or is too long, or the model was not trained on the finding.
    """
    if wanted.finding and not model_of(ledger.get("job")).evaluated[LABELS.index(wanted.finding)]:
        raise UsageError(
            f"this run's model was not trained on {wanted.finding}: its images have no score for it"
        )
    if wanted.listed is not None:
        chosen = _listed(ledger, wanted.listed, wanted.flag)
    elif wanted.sample:
        chosen = _sample(ledger, wanted)
    else:
        chosen = _highest(ledger, wanted)
    if not chosen.rows:
        raise UsageError("no image of this run that has a report is chosen so; nothing was written")
    return chosen


def _word(flag: str) -> str:
    """Return what is looked for among the flags; of no flag, what is always there."""
    return f" {flag} " if flag else " "


def _highest(ledger: Ledger, wanted: Wanted) -> Chosen:
    top = wanted.top or DEFAULT_TOP
    path = (
        f"$[{LABELS.index(wanted.finding)}]" if wanted.finding else "$[99]"
    )  # NULL: then in the source's order
    order = " ORDER BY json_extract(scores, ?) DESC, no LIMIT ?"
    rows = list(ledger.select(ItemRow, _IMAGES + order, _word(wanted.flag), path, top))
    if wanted.finding:
        return Chosen(rows)
    more = next(ledger.select(int, _COUNT, _word(wanted.flag))) - len(rows)
    return Chosen(rows, [f"{more} more images have the flag {wanted.flag}; --top shows more"] if more else [])


def _sample(ledger: Ledger, wanted: Wanted) -> Chosen:
    numbers = list(ledger.select(int, _NUMBERS, _word(wanted.flag)))
    # Of one run always the same: a page that is made again shows the images that were judged already.
    draw = random.Random(str(ledger.get("job")["run"]))  # noqa: S311  # no secret
    drawn = draw.sample(numbers, min(wanted.sample, len(numbers)))
    items = (ledger.item(number) for number in drawn)
    notes = [] if len(numbers) >= wanted.sample else [f"there are no more than {len(numbers)} such images"]
    return Chosen([item for item in items if item is not None], notes)


def _listed(ledger: Ledger, path: Path, flag: str) -> Chosen:
    key, uids, notes = _read_list(path)
    found: dict[str, list[ItemRow]] = {}
    for row in ledger.select(ItemRow, _IMAGES + " ORDER BY no", _word(flag)):
        uid = row.sop_instance_uid if key is Key.SOP_INSTANCE_UID else row.study_instance_uid
        if uid in uids:
            found.setdefault(uid, []).append(row)
    rows = [row for uid in uids for row in found.get(uid, ())]
    if len(rows) > MAX_IMAGES:
        raise UsageError(
            f"{path}: {len(rows)} images of this run are listed; a page holds {MAX_IMAGES}: split the list"
        )
    absent = len(uids) - len(found)
    if absent:
        notes.append(f"{absent} of {len(uids)} listed have no report in this run")
    return Chosen(rows, notes)


def _read_list(path: Path) -> tuple[Key, dict[str, None], list[str]]:
    """Return what a list names images by, its UIDs in order, each once, and what to say of how it was read.

    Raises
    ------
    UsageError
        It can't be read, or holds something else.
    """
    uids: dict[str, None] = {}
    with opened_table(path, one_column=True) as (header, rows, notes):
        columns = [one for one in key_columns(header) if one[0] in _KEYS]
        if columns:
            key, at = columns[0]
            for line, row in rows:
                if any(row):
                    uids[key_of(path, key, header[at], row[at] if at < len(row) else "", line)] = None
        else:  # one UID a line
            key = Key.SOP_INSTANCE_UID
            for line, row in chain([(1, header)], rows):
                if any(row):
                    uids[_uid(path, row, line)] = None
    if not uids:
        raise UsageError(f"{path}: no UID in it")
    return key, uids, notes


def _uid(path: Path, row: Sequence[str], line: int) -> str:
    uid, *others = [cell.strip() for cell in row]
    if any(others) or not _UID.fullmatch(uid):
        raise UsageError(
            f"{path}: line {line} holds no UID: write one UID a line, or a CSV with a column sop_instance_uid"
            " or study_instance_uid"
        )
    return uid
