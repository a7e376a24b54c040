"""Where one image's CPU goes, ours beside the serial loop's: ``python -m bench.bench_stages [IMAGES]``.

Our stages run one after the other in one process and one thread, by the same functions that the workers call, against
a real Orthanc and a real Redis; Orthanc's own CPU is read from the kernel. What the queue costs (Celery, claims, Redis,
ledger, producer) comes from `bench.bench_scale`, and the reader's pipe is measured against the same work without it.
"""

from __future__ import annotations

import os
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from backlog.dicom.eligibility import Rules
from backlog.dicom.file import DicomFile
from backlog.dicom.header import screen
from backlog.inputs.entries import MAX_BYTES
from backlog.inputs.zip_archive import ZipArchive
from backlog.inputs.zip_directory import Member
from backlog.model import DEFAULT_MODEL, MODEL_VERSION, PREPROCESSING, SCORE_DIGITS
from backlog.pacs.base import Pacs
from backlog.pacs.connect import connect
from backlog.pacs.limited_pacs import limited
from backlog.settings import Settings
from bench.bench_scale import measure
from bench.end_to_end import fresh_orthanc, write_zip
from bench.figures import Figure
from bench.reference.serial_loop import Serial
from tests.support.servers import OrthancServer, RedisServer
from worker.model.engine import Engine, load
from worker.model.weights import locate
from worker.pixels.preprocess import model_input
from worker.reader.client import Reader
from worker.sr import build as sr

_MODEL = sr.Model(DEFAULT_MODEL, MODEL_VERSION, "0" * 64, PREPROCESSING)
_WARM_UP = 3

_LEAST = 5e-5  # seconds: what the kernel's clock can't tell from nothing


class Clock:
    """CPU milliseconds by stage: of this process, of Orthanc, of a reader."""

    def __init__(self, others: dict[str, int]) -> None:
        self.stages: dict[tuple[str, str], float] = {}  #: (stage, whose) → seconds
        self._others = {name: psutil.Process(pid) for name, pid in others.items()}

    @contextmanager
    def stage(self, name: str, whose: str) -> Iterator[None]:
        """Measure one stage; what Orthanc does meanwhile is a stage of its own."""
        before = {other: _cpu(process) for other, process in self._others.items()}
        started = time.process_time()
        yield
        self._add(name, whose, time.process_time() - started)
        for other, process in self._others.items():
            self._add(f"{name}, {other}", other, _cpu(process) - before[other])

    def _add(self, name: str, whose: str, seconds: float) -> None:
        self.stages[name, whose] = self.stages.get((name, whose), 0.0) + seconds


class SerialOnCpu(Serial):
    """The serial loop, timed by its CPU instead of by the wall."""

    clock: Clock

    def _timed(self, name: str, work: Callable[[], Any]) -> Any:
        with self.clock.stage(name, "serial"):
            return work()


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _ours(clock: Clock, pacs: Pacs, archive: ZipArchive, member: Member, engine: Engine) -> str:
    rules, options = Rules(), sr.Options()
    with clock.stage("inflate and check", "codec"):
        dicom = archive.read(member, limit=MAX_BYTES)
    with clock.stage("look at the header", "ours"):
        seen_before = screen(DicomFile(dicom).header, rules)
    with clock.stage("send", "transport"):
        stored = pacs.store(dicom, seen_before.identity)
    with clock.stage("fetch", "transport"):
        fetched = DicomFile(pacs.fetch(stored.instance))
    with clock.stage("judge the header", "ours"):
        found = screen(fetched.header, rules)
    with clock.stage("pixels to model input", "codec"):
        seen = model_input(fetched)
    with clock.stage("forward pass", "forward pass"):
        scores = [round(float(score), SCORE_DIGITS) for score in engine.scores(seen.image[None, None])[0]]
    with clock.stage("fetch the header", "transport"):
        header = pacs.header(stored.instance)
    with clock.stage("build the report", "report"):
        of = header.identity
        source, when = sr.read_source(header), datetime.now(UTC)
        built = sr.build(source, scores, [*seen.flags], model=_MODEL, options=options, when=when)
    with clock.stage("check the report", "report"):
        sr.check(built.dicom, of, scores=scores, model=_MODEL, options=options)
    with clock.stage("send the report", "transport"):
        series, instance = built.series_instance_uid, built.sop_instance_uid
        told = replace(of, series_instance_uid=series, sop_instance_uid=instance)
        pacs.count_instances(instance, pacs.store(built.dicom, told).instance)
    assert found.identity is not None  # noqa: S101  # the bench's images have one
    return stored.instance


def _pipe(orthanc: OrthancServer, settings: Settings, instance: str, count: int) -> float:
    """Return what the reader's pipe costs an image, both ends together, in seconds of CPU."""
    os.environ |= {
        "CXR_PACS_URL": orthanc.url,
        "CXR_PACS_STORAGE": str(orthanc.storage),
    } | orthanc.environment
    pacs = connect(settings)
    reader = Reader(settings, Rules())
    before = {*psutil.Process().children()}
    list(reader.read([instance] * _WARM_UP))
    (process,) = {*psutil.Process().children()} - before
    theirs, ours = _cpu(process), time.process_time()
    list(reader.read([instance] * count))
    through = _cpu(process) - theirs + time.process_time() - ours
    reader.stop()
    started = time.process_time()
    for _ in range(count):
        file = DicomFile(pacs.fetch(instance))
        screen(file.header, Rules())
        model_input(file)
    return max(0.0, through - (time.process_time() - started)) / count


def _serial(orthanc: OrthancServer, clock: Clock, path: Path) -> dict[tuple[str, str], float]:
    serial = SerialOnCpu(orthanc.url, orthanc.username, orthanc.password)
    serial.clock = clock
    with zipfile.ZipFile(path) as archive:
        members = archive.namelist()
        for slot, member in enumerate(members):
            if slot == _WARM_UP:
                clock.stages.clear()
            serial.one(archive, member)
    return _means(clock, len(members) - _WARM_UP)


def _means(clock: Clock, count: int) -> dict[tuple[str, str], float]:
    return {key: seconds / count for key, seconds in clock.stages.items() if seconds / count > _LEAST}


def measure_stages(count: int) -> tuple[dict[tuple[str, str], float], dict[tuple[str, str], float]]:
    """Return the serial loop's and our seconds of CPU an image, by (stage, whose)."""
    kept = Path.home() / ".cache" / "cxr-backlog"
    engine = load(locate("seeded", "", kept, download=False), engine="onnxruntime", threads=1)
    with TemporaryDirectory(prefix="cxr-bench-") as name:
        folder = Path(name)
        write_zip(folder / "ours.zip", count + _WARM_UP, 1)
        write_zip(folder / "serial.zip", max(1, count // 4) + _WARM_UP, 2)
        redis = RedisServer(folder / "redis")
        redis.start()
        try:
            with fresh_orthanc(folder / "orthanc") as orthanc, ZipArchive(folder / "ours.zip") as archive:
                assert orthanc.process is not None  # noqa: S101  # it was started
                settings = Settings(
                    redis_url=redis.url,
                    pacs_url=orthanc.url,
                    pacs_username=orthanc.username,
                    pacs_password=orthanc.password,
                    pacs_storage=str(orthanc.storage),
                )
                pacs = limited(connect(settings), settings)
                clock = Clock({"Orthanc": orthanc.process.pid})
                for slot, member in enumerate(archive.members()):
                    if slot == _WARM_UP:
                        clock.stages.clear()
                    instance = _ours(clock, pacs, archive, member, engine)
                ours = _means(clock, count)
                ours["the reader's pipe", "ours"] = _pipe(orthanc, settings, instance, count)
                serial = _serial(orthanc, Clock({"Orthanc": orthanc.process.pid}), folder / "serial.zip")
        finally:
            redis.stop()
        point = measure(2, 400, folder / "queue")
        ours["queue, claims, ledger", "ours"] = (point.redis + point.producer + point.worker) / 1e6
    return serial, ours


def _bars(title: str, stages: dict[tuple[str, str], float], longest: float) -> None:
    print(f"\n{title}: {1000 * sum(stages.values()):.0f} ms of CPU an image")
    for (stage, whose), value in stages.items():
        print(f"  {stage:<26}{1000 * value:>7.1f}  {whose:<13}{'█' * round(60 * value / longest)}")


def main(count: int = 40) -> list[Figure]:
    """Print both as bars on one scale, and what is neither Orthanc, codec, forward pass nor report; return sums."""
    serial, ours = measure_stages(count)
    longest = max([*serial.values(), *ours.values()])
    _bars("The serial loop", serial, longest)
    _bars("Ours, a zip, storage folder readable", ours, longest)
    for whose in ("transport", "ours"):
        print(
            f"{whose}: {1000 * sum(value for (_, belongs), value in ours.items() if belongs == whose):.1f} ms"
        )
    whole, loop = 1000 * sum(ours.values()), 1000 * sum(serial.values())
    found = [
        Figure("one image by stage", "all stages", whole, "ms of CPU", whole / loop, "of the serial loop's")
    ]
    for whose in dict.fromkeys(belongs for _, belongs in ours):
        part = 1000 * sum(value for (_, belongs), value in ours.items() if belongs == whose)
        found.append(Figure("one image by stage", whose, part, "ms of CPU", part / whole, "of all stages"))
    return found


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]))
