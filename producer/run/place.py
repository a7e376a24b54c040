"""Where a run's folder lies: moved since, or a copy of one that still exists elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from backlog.errors import UsageError
from backlog.pacs.address import is_server
from producer.ledger.ledger import Ledger
from producer.ledger.run_database import Facts
from producer.run.folder import Paths, is_running

#: The ledger's fact with the path of a run's folder.
PLACE: Final = "place"

#: The ledger's fact with the PACS's path from the run's folder, where it lies in it; of a day of a followed source,
#: where it lies in the folder of all days.
PACS_INSIDE: Final = "pacs_inside"


def place_facts(paths: Paths, pacs: str) -> Facts:
    """Return what a new run's ledger keeps of its place.

    Parameters
    ----------
    paths
        The run's folder.
    pacs
        The address of the run's PACS, or its folder.
    """
    facts: Facts = {PLACE: os.path.realpath(paths.out)}
    if not is_server(pacs):
        folder, out = Path(os.path.realpath(pacs)), Path(os.path.realpath(paths.out))
        if folder.is_relative_to(_whole(paths.out)):
            facts[PACS_INSIDE] = os.path.relpath(folder, out)
    return facts


def pacs_address(ledger: Ledger, paths: Paths) -> str:
    """Return the address of a run's PACS. A folder inside the run's folder goes where that goes: moved, or copied.

    That of a followed source goes with the folder of all days; a day that is taken elsewhere alone knows its path.
    """
    inside = ledger.get(PACS_INSIDE)
    if inside is not None and (not inside.startswith(os.pardir) or Paths(paths.out.parent).days.exists()):
        return os.path.normpath(str(paths.out.absolute() / inside))
    address = str(ledger.get("pacs"))
    known = ledger.get(PLACE) is not None
    if not known and not is_server(address) and Path(address).name == paths.pacs.name and paths.pacs.is_dir():
        return str(paths.pacs.absolute())  # a ledger from before places were kept
    return address


def _whole(out: Path) -> Path:
    """Return what is moved as one: a run's folder; for a day of a followed source, the folder of all days."""
    whole = out.parent if Paths(out.parent).days.exists() else out
    return Path(os.path.realpath(whole))


def original_of(ledger: Ledger, paths: Paths) -> Path | None:
    """Return the folder of the run that this one is a copy of; None for the run itself, moved or not.

    It is a copy where the place that the ledger names still holds the same run. A folder from another disk whose first
    place is gone counts as moved.
    """
    place = ledger.get(PLACE)
    if place is None:
        return None
    first = Path(place)
    if first == Path(os.path.realpath(paths.out)) or not Paths(first).ledger.is_file():
        return None
    if first.samefile(paths.out):
        return None  # the same folder by another name, as in a container
    try:
        other = Ledger(Paths(first).ledger, write=False)
    except UsageError:
        return None
    try:
        return first if other.get("job")["run"] == ledger.get("job")["run"] else None
    finally:
        other.close()


def is_moved(ledger: Ledger, paths: Paths) -> bool:
    """Whether the folder lies elsewhere than the ledger says."""
    place = ledger.get(PLACE)
    return place is not None and place != os.path.realpath(paths.out)


def check_not_copy(ledger: Ledger, paths: Paths, *, agreed: bool) -> None:
    """Refuse to write for a copy of a run, unless the user agreed.

    Parameters
    ----------
    ledger
        The run's ledger.
    paths
        The folder where the ledger is now.
    agreed
        The user knows that it is a copy, and means it.

    Raises
    ------
    UsageError
        It is a copy; or the run that it was copied from is at work.
    """
    original = original_of(ledger, paths)
    if original is None:
        return
    if not agreed:
        raise UsageError(
            f"{paths.out}: this is a copy of the run in {original}. What this command changes lies in the PACS at"
            f" {pacs_address(ledger, paths)}. Use {original}, or add --copy to work on the copy"
        )
    if is_running(Paths(original)):
        raise UsageError(
            f"{paths.out}: the run that this is a copy of is at work, in {original}: let it end first"
        )


def settle_here(ledger: Ledger, paths: Paths) -> None:
    """Keep that a run belongs here from now on."""
    if is_moved(ledger, paths):
        ledger.set(PLACE, os.path.realpath(paths.out))
