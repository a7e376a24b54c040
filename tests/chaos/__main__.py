"""``python -m tests.chaos [EXPERIMENT ...]``: run experiments and print the table of what they found."""

from __future__ import annotations

import argparse
import platform
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.chaos import deaths, outages
from tests.chaos.followed import followed
from tests.chaos.foreign import foreign
from tests.chaos.machines import machines
from tests.chaos.mid_store import mid_store
from tests.chaos.million import million
from tests.chaos.peer import failing_peer
from tests.chaos.table import Finding, table

#: Items and blows at scale 1.
_ITEMS = 10_000
_KILLS = 100
_MILLION = 1_000_000


def experiments(scale: float) -> dict[str, Callable[[Path], Finding]]:
    """Return the experiments by name, sized by a scale."""
    items = max(200, round(_ITEMS * scale))
    some = max(200, items // 5)  # where time away counts, not the number of items
    kills = max(6, round(_KILLS * scale))
    simulated = max(20_000, round(_MILLION * scale))
    return {
        "1": lambda folder: deaths.killed_workers(folder, items=items, kills=kills),
        "2": lambda folder: deaths.killed_servers(folder, items=some),
        "3": lambda folder: deaths.poison(folder, items=items),
        "4": lambda folder: outages.orthanc_away(folder, items=some),
        "5": lambda folder: outages.delivered_thrice(folder, items=some),
        "6": lambda folder: outages.bad_network(folder, items=some),
        "7a": lambda folder: outages.full_redis(folder, items=some),
        "7b": lambda folder: outages.full_disk(folder, items=some),
        "8": lambda folder: deaths.stopped_worker(folder, items=some),
        "9": lambda folder: million(folder, items=simulated),
        "10": lambda folder: deaths.without_reconcile(folder, items=min(items, 1000), kills=min(kills, 12)),
        "11": lambda folder: foreign(folder, items=max(60, round(400 * scale))),
        "12": lambda folder: machines(folder, items=max(900, some)),
        "13": lambda folder: mid_store(folder, items=some),
        "14": lambda folder: failing_peer(folder, items=max(60, items // 20)),
        "15": lambda folder: followed(folder, items=max(120, items // 20)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("experiment", nargs="*", help="1 to 15, 7a and 7b; none means all")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="1: 10,000 items, 100 kills, a million simulated"
    )
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs and ledgers")
    arguments = parser.parse_args()
    known = experiments(arguments.scale)
    chosen = arguments.experiment or list(known)
    if unknown := [name for name in chosen if name not in known]:
        parser.error(f"no experiment {', '.join(unknown)}; there are {', '.join(known)}")
    folder = Path(tempfile.mkdtemp(prefix="cxr-chaos-"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is stopped on the way out
    found: list[Finding] = []
    failed = False
    for name in chosen:
        began = time.monotonic()
        try:
            found.append(known[name](folder / name))
        except Exception:  # noqa: BLE001  # one experiment that breaks must not hide the others
            traceback.print_exc()
            failed = True
            continue
        print(f"{table(found[-1:]).splitlines()[-1]}  ({time.monotonic() - began:.0f} s in all)", flush=True)
    print(f"\nscale {arguments.scale:g}, {platform.machine()}, Python {platform.python_version()}\n")
    print(table(found))
    failed |= not all(one.passed for one in found)
    if arguments.keep or failed:
        print(f"\nlogs: {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
