"""Experiments at servers that others configured: two versions of Orthanc, each with settings that archives have."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from backlog.outcomes import Reason
from tests.chaos.account import Account
from tests.chaos.ending import Ended, ends_well
from tests.chaos.failing_proxy import FailingProxy
from tests.chaos.images import Kind, squares
from tests.chaos.proxy import Proxy
from tests.chaos.rig import Rig
from tests.chaos.table import Finding, finding
from tests.support.dicom_images import dicom
from tests.support.newer_orthanc import VERSIONS, NewerOrthanc, lacking, made_orthanc

_JPEG_LS: Final = "1.2.840.10008.1.2.4.80"
#: Of so many images a PACS fails on one.
_HUNDRED: Final = 100
_FIELDS: Final = ("items", "lost", "duplicate", "wrongly_quarantined", "wrong")


@dataclass(frozen=True)
class Size:
    """How large a case is."""

    items: int
    limit: float  #: seconds that a run may take


Case = Callable[[Path, str, Size], Ended]


def foreign(
    folder: Path,
    *,
    items: int,
    limit: float = 900,
    versions: Sequence[str] = VERSIONS,
    cases: Sequence[str] = (),
) -> Finding:
    """11: what others set in their Orthanc: nothing is lost or unknown, and a run ends or does not begin.

    Parameters
    ----------
    folder
        For all files.
    items
        Images of each case.
    limit
        Seconds that a run may take.
    versions
        Of :data:`tests.support.newer_orthanc.VERSIONS`.
    cases
        Names of :data:`CASES`; empty for all.
    """
    began = time.monotonic()
    accounts: list[Account] = []
    seen: list[str] = []
    passed = True
    for version in versions:
        if why := lacking(version):
            seen.append(f"NOT RUN {version}: {why}")
            continue
        for name, case in CASES.items():
            if (cases and name not in cases) or (version == "installed" and name == "ReadOnly"):
                continue  # Orthanc 1.10 has no such setting
            started = time.monotonic()
            ended = case(folder / f"{name} {version}".replace(" ", "-"), version, Size(items, limit))
            print(f"  {name} {version}: {ended} ({time.monotonic() - started:.0f} s)", flush=True)
            accounts += [ended.account] if ended.account else []
            passed &= ended.fine and (ended.account is None or ended.account.clean)
            seen.append(f"{name} {version}" if ended.fine else f"**{name} {version}: {ended.note}**")
    whole = Account(*(sum(getattr(one, field) for one in accounts) for field in _FIELDS))
    return finding("11 foreign servers", whole, time.monotonic() - began, "; ".join(seen), passed=passed)


@contextmanager
def _rig(folder: Path, version: str, items: int, **options: object) -> Iterator[Rig]:
    with (
        made_orthanc(version, folder, **options) as server,
        Rig(folder / "rig", items, orthanc=server) as rig,
    ):
        yield rig


def _begin(rig: Rig) -> None:
    rig.start_workers()
    rig.start_producer()


# -- the cases -----------------------------------------------------------------------------------------------


def _limits(folder: Path, version: str, size: Size) -> Ended:
    """The images are in the PACS, and a selection of them is scored."""
    with _rig(folder, version, size.items, LimitFindResults=7, LimitFindInstances=7) as rig:
        with zipfile.ZipFile(rig.backlog) as archive:
            for name in archive.namelist():
                assert rig.orthanc.post("/instances", archive.read(name)).ok
        rig.words = ["orthanc", "--modality", "DX"]
        _begin(rig)
        return ends_well(rig, size.limit)


def _transcodes(folder: Path, version: str, size: Size) -> Ended:
    with _rig(folder, version, size.items, IngestTranscoding=_JPEG_LS) as rig:
        _begin(rig)
        return ends_well(rig, size.limit)


def _forbids(folder: Path, version: str, size: Size) -> Ended:
    """A filter refuses to take one image in a hundred."""
    return _fails(folder, version, size, 403, Reason.REFUSED, reads=False)


def _breaks(folder: Path, version: str, size: Size) -> Ended:
    """One image in a hundred can be stored, and never be read again."""
    return _fails(folder, version, size, 500, Reason.PACS_FAILS, reads=True)


def _fails(folder: Path, version: str, size: Size, status: int, reason: Reason, *, reads: bool) -> Ended:
    with _rig(folder, version, max(_HUNDRED, size.items)) as rig:
        failing = rig.images[::_HUNDRED]  # the first one too
        uids = [image.sop_instance_uid for image in failing]
        with FailingProxy(rig.orthanc.url, uids, status, reads=reads) as proxy:
            rig.pacs_port = proxy.port
            _begin(rig)
            rig.until_finished(size.limit)
            assert proxy.failed
            proxy.heal()  # so that whatever it stored without telling would show
            return ends_well(rig, size.limit, failing, reason)


def _slow(folder: Path, version: str, size: Size) -> Ended:
    """Each request takes a second."""
    with _rig(folder, version, max(8, size.items // 4)) as rig, Proxy(rig.orthanc.port) as proxy:
        proxy.delay = 0.5  # each way
        rig.pacs_port = proxy.port
        _begin(rig)
        rig.until_finished(size.limit)
        proxy.delay = 0.0
        return ends_well(rig, size.limit)


def _recreated(folder: Path, version: str, size: Size) -> Ended:
    """The Orthanc's identifier changes in the middle, as a new container's does; workers are started again with it."""
    with _rig(folder, version, size.items) as rig:
        _begin(rig)
        rig.until(lambda: rig.ended() >= size.items // 4, size.limit, "a quarter has ended")
        server = rig.orthanc
        server.stop()
        if isinstance(server, NewerOrthanc):
            server.host = "another"
        else:  # it can't be given another host's name here; its identifier is made of this too
            server.options = {"DicomAet": "ANOTHER"}
        server.start()
        rig.kill_workers()  # the rig starts them again
        return ends_well(rig, size.limit)


def _recycles(folder: Path, version: str, size: Size) -> Ended:
    """Full of others' patients. Refused where it tells; where it doesn't, stopped behind the first image."""
    most = max(2, size.items // 4)
    return _refused(
        folder, version, size, MaximumPatientCount=most, MaximumStorageMode="Recycle", patients=most
    )


def _read_only(folder: Path, version: str, size: Size) -> Ended:
    return _refused(folder, version, size, ReadOnly=True)


def _refused(folder: Path, version: str, size: Size, *, patients: int = 0, **options: object) -> Ended:
    with _rig(folder, version, size.items, **options) as rig:
        for number in range(patients):
            rig.orthanc.post("/instances", dicom(squares(number, Kind.SOUND), **others_patient(number)))
        _begin(rig)
        assert rig.producer is not None
        code = rig.producer.wait(size.limit)
        log = (rig.folder / "producer.log").read_text()
        said = any(word in log for word in ("MaximumPatientCount", "ReadOnly"))
        names = [one["MainDicomTags"]["PatientID"] for one in rig.orthanc.get("/patients?expand").json()]
        lost = patients - sum(name.startswith(_OTHERS) for name in names)
        ours = len(names) - (patients - lost)
        kept = (lost, ours) == (0, 0) or (version == "installed" and lost <= 1)
        return Ended(
            None,
            fine=code == 2 and said and kept,
            note=f"exit {code}, said {said}, {lost} of {patients} patients lost, {ours} of ours there",
        )


_OTHERS: Final = "HOSPITAL"


def others_patient(number: int) -> dict[str, Any]:
    """Return what names an image of a patient who is no part of a backlog."""
    uids = {
        keyword: f"1.2.3.{level}.{number}"
        for level, keyword in enumerate(("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"), start=7)
    }
    return {"PatientID": f"{_OTHERS}{number}", **uids}


CASES: Final[dict[str, Case]] = {
    "LimitFindResults": _limits,
    "IngestTranscoding": _transcodes,
    "403 for 1 %": _forbids,
    "500 for 1 %": _breaks,
    "1 s a request": _slow,
    "recreated": _recreated,
    "recycling": _recycles,
    "ReadOnly": _read_only,
}
