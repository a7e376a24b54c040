"""How a run of an experiment ends: counted, then verified and retracted by the command line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from backlog.outcomes import Reason
from tests.chaos.account import Account, Ending, endings, reports_in, settle
from tests.chaos.images import Image
from tests.chaos.rig import Rig
from tests.support.servers import ROOT


@dataclass(frozen=True)
class Ended:
    """How one run ended: counted, or refused before it began."""

    account: Account | None
    fine: bool
    note: str = ""


def ends_well(rig: Rig, limit: float, failing: Sequence[Image] = (), reason: Reason | None = None) -> Ended:
    """Wait for the end; count, verify and retract: reports that nobody knows of would show.

    Parameters
    ----------
    rig
        A run that has begun.
    limit
        Seconds.
    failing, reason
        The images that the PACS fails on, and how they have to end.
    """
    rig.until_finished(limit)
    verified = command(rig, "verify", rig.paths.out)
    rig.stop_workers()
    ended = _by_image(rig)
    told = {image.number: ended.get(image.number) for image in failing}
    others = [image for image in rig.images if image.number not in told]
    reports = {
        name: report
        for name, report in reports_in(rig.orthanc).items()
        if report[0] not in {image.sop_instance_uid for image in failing}
    }
    account = settle(others, ended, reports)
    wrong = sum(1 for one in told.values() if one is None or reason is None or one.reason != reason.value)
    account = replace(account, items=account.items + len(told), wrong=account.wrong + wrong)
    retracted = command(rig, "retract", rig.paths.out, "--yes")
    unknown = len(rig.orthanc.reports())
    note = f"verify {verified}, retract {retracted}, {unknown} unknown reports"
    return Ended(account, fine=(verified, retracted, unknown) == (0, 0, 0), note=note)


def command(rig: Rig, name: str, out: Path, *more: str) -> int:
    """Run a command on a run's folder; return its exit status."""
    done = subprocess.run(
        [sys.executable, "-m", "producer.cli.main", name, str(out), *more],
        env=rig.environment(rig.redis.port),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    (rig.folder / f"{name}.log").write_text(done.stdout + done.stderr)
    return done.returncode


def _by_image(rig: Rig) -> dict[int, Ending]:
    """Return how items ended by their image's number: an Orthanc lists in an order of its own."""
    found = endings(rig.paths.ledger)
    if not rig.words:
        return found
    by_uid = {one.sop_instance_uid: one for one in found.values()}
    known = [image for image in rig.images if image.sop_instance_uid in by_uid]
    return {image.number: by_uid[image.sop_instance_uid] for image in known}
