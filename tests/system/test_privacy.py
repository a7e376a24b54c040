"""No patient leaves the PACS: all that a run writes or says is searched for names planted in its input.

The search reads the run's folder, the workers' logs, every byte that Redis ever held (its append-only file),
what Flower's API tells, the metrics, and what the commands print. Only the PACS itself, which holds the
patients' images and reports, is left out: there the names have to be found, which shows that it can find.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli, need
from tests.support.dicom_images import chest, dicom
from tests.support.planted_names import PLANTED, found
from tests.support.servers import ROOT, RedisServer, free_port, wait_until


def backlog(path: Path) -> int:
    """Write a zip with the names wherever a header, a damaged header, or a zip can hold one."""
    patient: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 192",
        "PatientName": "Xylophonia^Zwölfminüt",
        "PatientID": "QX7731PATIENT",
        "PatientBirthDate": "19370229",
        "ReferringPhysicianName": "Wendelgard",
        "InstitutionName": "Hinterkappel",
        "AccessionNumber": "QX7731PATIENT",
        "StudyDescription": "THORAX Xylophonia",
        "PatientComments": "Zwölfminüt Xylophonia " * 20,
        "StationName": "Hinterkappel",
    }
    files = {
        "good": dicom(chest(), SOPInstanceUID="1.2.1", **patient),
        "lateral": dicom(chest(), SOPInstanceUID="1.2.2", ViewPosition="LL", **patient),
        "no pixels": dicom(None, SOPInstanceUID="1.2.3", **patient),
        "uid": dicom(chest(), **patient | {"SOPInstanceUID": "Xylophonia"}),
        "study uid": dicom(
            chest(), SOPInstanceUID="1.2.4", **patient | {"StudyInstanceUID": "QX7731PATIENT"}
        ),
        "photometric": dicom(
            chest(), SOPInstanceUID="1.2.5", PhotometricInterpretation="XYLOPHONIA", **patient
        ),
        "slope": dicom(chest(), SOPInstanceUID="1.2.6", WindowCenter=None, **patient),
        "modality": dicom(chest(), SOPInstanceUID="1.2.7", **patient | {"Modality": "XYLOPHONIA"}),
        "body part": dicom(chest(), SOPInstanceUID="1.2.8", **patient | {"BodyPartExamined": "XYLOPHONIA"}),
        "patient id": dicom(chest(), SOPInstanceUID="1.2.9", **patient | {"PatientID": "QX7731PATIENT\\A"}),
        "cut": dicom(chest(), SOPInstanceUID="1.2.10", **patient)[:3000],
        "blank": dicom(chest() * 0, SOPInstanceUID="1.2.11", **patient),
        "letter": "Dear Wendelgard, Xylophonia Zwölfminüt of Hinterkappel was born 19370229.".encode(),
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = b"Xylophonia"
        for name, content in files.items():
            archive.writestr(f"Xylophonia_Zwölfminüt/{name} QX7731PATIENT.dcm", content)
    return len(files)


@dataclass(frozen=True)
class Traces:
    """Everything that one run left, but its PACS."""

    out: Path
    pacs: Path
    texts: dict[str, bytes]  #: by where each stands


@contextmanager
def process(*command: str, log: Path, **settings: str) -> Iterator[None]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CXR_")} | settings
    with log.open("ab") as written:
        running = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "worker.main", *command],
            env=environment,
            cwd=ROOT,
            stdout=written,
            stderr=written,
            stdin=subprocess.DEVNULL,
        )
    try:
        yield
    finally:
        running.terminate()
        running.wait(60)


def read(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310  # our own servers
            return bytes(answer.read())
    except OSError:
        return b""


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory, model_cache: Path) -> Traces:
    """Run a backlog on workers and a Redis of its own, beside Flower, and use every command on it."""
    need("redis-server")
    folder = tmp_path_factory.mktemp("privacy")
    out, pacs, source = folder / "out", folder / "pacs", folder / "backlog.zip"
    count = backlog(source)
    redis = RedisServer(folder / "redis", persistent=True)
    redis.start()
    metrics, flower = free_port(), free_port()
    common = {"CXR_REDIS_URL": redis.url, "CXR_PACS_URL": str(pacs), "CXR_LOG": "json"}
    model = {"CXR_WEIGHTS": "seeded", "CXR_CACHE": str(model_cache)}
    texts: dict[str, bytes] = {}

    def say(*arguments: str, **settings: str) -> None:
        done = subprocess.run(
            [str(Path(sys.executable).with_name("cxr-backlog")), *arguments],
            env={k: v for k, v in os.environ.items() if not k.startswith("CXR_")} | common | model | settings,
            cwd=folder,
            capture_output=True,
            timeout=150,
        )
        texts[f"what '{arguments[0]}' says"] = done.stdout + done.stderr
        assert b"Traceback" not in done.stderr, done.stderr.decode()

    with ExitStack() as stack:
        stack.callback(redis.stop)
        queues = ["--queues", "upload,inference,report", "--concurrency", "1"]
        worker = ["worker", *queues, "--loglevel", "DEBUG"]  # the most that it ever says
        stack.enter_context(process(*worker, log=folder / "worker.log", **common, **model))
        stack.enter_context(
            process(
                "flower",
                f"--port={flower}",
                "--address=127.0.0.1",
                log=folder / "flower.log",
                FLOWER_UNAUTHENTICATED_API="true",
                **common,
                **model,
            )
        )
        wait_until(lambda: read(f"http://127.0.0.1:{flower}/healthcheck"), 60, "Flower answers")
        say("plan", str(source))
        scraper = stack.enter_context(_scraping(metrics))
        say("run", str(source), "--out", str(out), CXR_METRICS_PORT=str(metrics))
        texts["the metrics"] = scraper()
        texts["Flower's tasks"] = read(f"http://127.0.0.1:{flower}/api/tasks")
        texts["Flower's workers"] = read(f"http://127.0.0.1:{flower}/api/workers")
        texts["Flower's page"] = read(f"http://127.0.0.1:{flower}/tasks")
        texts["Flower's metrics"] = read(f"http://127.0.0.1:{flower}/metrics")
        for command in ("status", "quarantine", "verify", "summary", "export"):
            say(command, str(out))
        say("audit", "verify", str(out))
        say("doctor", "--out", str(out))
    summary = json.loads((out / "summary.json").read_text())
    assert summary["complete"]
    assert summary["total"] == count
    for path in sorted(folder.rglob("*")):
        if path.is_file() and pacs not in path.parents and path != source:
            texts[str(path.relative_to(folder))] = path.read_bytes()
    return Traces(out, pacs, texts)


@contextmanager
def _scraping(port: int) -> Iterator[Callable[[], bytes]]:
    import threading

    over, seen = threading.Event(), bytearray()

    def scrape() -> None:
        while not over.wait(0.02):  # a run on warm workers is over in a second
            seen.extend(read(f"http://127.0.0.1:{port}/metrics"))

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield lambda: bytes(seen)
    finally:
        over.set()
        thread.join()


def test_the_search_finds_a_name_however_it_is_written() -> None:
    for name in PLANTED:
        for hidden in (
            f"x{name}y".encode(),
            json.dumps({"a": name}).encode(),
            base64.b64encode(json.dumps([1, name, 2]).encode()),
            base64.b64encode(f"xx{name}yyyy".encode()),
            f"{name}^A".encode("latin-1"),
            name.upper().encode("utf-16-le"),
            urllib.parse.quote(f"/{name}/").encode(),
        ):
            assert found(hidden) == {name}, hidden
    assert found(b"nobody") == set()


def test_the_names_are_in_the_pacs_where_they_belong(traces: Traces) -> None:
    held = b"".join(path.read_bytes() for path in traces.pacs.rglob("*") if path.is_file())
    assert found(held) == set(PLANTED)


def test_the_search_looked_where_names_might_be(traces: Traces) -> None:
    for place in (
        "out/summary.html",
        "out/audit.jsonl",
        "out/ledger.sqlite",
        "out/summary.json",
        "out/scores.csv",
    ):
        assert traces.texts[place], place
    for place, shows in {
        "the metrics": b"cxr_items_ended_total",
        "Flower's tasks": b"chunk=",
        "Flower's metrics": b"flower_",
        "worker.log": b"chunk.done",
        "what 'quarantine' says": b"not_dicom",
    }.items():
        assert shows in traces.texts[place], place
    redis = b"".join(text for where, text in traces.texts.items() if where.startswith("redis/"))
    assert b"cxr:" in redis  # claims and records
    assert b"unacked" in redis  # messages


def test_no_planted_name_is_found_anywhere_else(traces: Traces) -> None:
    leaks = {where: names for where, text in traces.texts.items() if (names := found(text))}
    assert leaks == {}


def test_run_and_chunk_lead_from_the_producer_to_the_report(traces: Traces) -> None:
    done: set[tuple[str, int, int]] = set()
    for line in traces.texts["worker.log"].decode().splitlines():
        if line.startswith("{") and (said := json.loads(line))["event"] == "chunk.done":
            key = (said["run"], said["chunk"], said["stage"])
            assert key not in done  # one line for each task
            done.add(key)
    lines = [json.loads(line) for line in traces.texts["out/audit.jsonl"].decode().splitlines()]
    assert lines
    for line in lines:
        assert {(line["run"], line["chunk"], stage) for stage in (0, 1, 2)} <= done
        assert f"{line['run']}.{line['chunk']}.2".encode() in traces.texts["Flower's tasks"]


def test_the_command_line_shows_names_only_when_asked(traces: Traces, cli: Cli) -> None:
    assert found(cli("quarantine", traces.out).stdout.encode()) == set()
    assert "Xylophonia" in cli("quarantine", "list", traces.out, "--names").stdout
