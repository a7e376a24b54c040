"""What a source's disk fails on is named by its number alone: paths hold patients' names.

The upload task runs as Celery runs it. Searched are its log lines, Celery's with their chains of causes, every key in
Redis, and what Celery would tell Flower.
"""

from __future__ import annotations

import errno
import gzip
import io
import json
import logging
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from celery.app.trace import build_tracer

from backlog.broker.celery_app import make_app
from backlog.broker.claims import Claims
from backlog.broker.job import Job
from backlog.broker.messages import Stage
from backlog.errors import SourceUnavailable
from backlog.files import UNAVAILABLE_ERRNOS
from backlog.inputs.image_table import table_sha256
from backlog.inputs.path_list import listing_record
from backlog.log import LOGGER, set_up
from backlog.settings import Settings
from producer.dispatch.chunk_sender import items_of
from producer.ledger.chunks import ChunkRow
from producer.sources.folder import FolderSource
from tests.support.dicom_images import chest, dicom
from tests.support.jobs import a_job
from tests.support.planted_names import found
from worker.tasks import chunk as chunk_module
from worker.tasks import registry, retry

ERRNOS = {name: getattr(errno, name) for name in ("EIO", "ESTALE", "EACCES", "ENOENT")}
#: The item's number in the run.
NUMBER = 4711

_FOLDER = "Wendelgard Hinterkappel"
_NAME = "Xylophonia^Zwölfminüt_19370229_QX7731PATIENT"


def zip_of(members: dict[str, bytes]) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return written.getvalue()


#: A file of the source, by its ending.
FILES = {
    ".zip": zip_of({f"{_NAME}.dcm": dicom(chest(64, 64))}),
    ".dcm": dicom(chest(64, 64)),
    ".dcm.gz": gzip.compress(dicom(chest(64, 64))),
    ".png": b"\x89PNG\r\n\x1a\n" + bytes(50),
}


@dataclass
class Failing:
    """A file on a disk that fails after some reads."""

    file: Any
    left: int
    error: OSError

    def read(self, size: int = -1) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise self.error
        return bytes(self.file.read(size))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> Failing:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def fail(monkeypatch: pytest.MonkeyPatch, suffix: str, number: int, reads: int | None) -> None:
    """Have the disk fail on files of a suffix: after so many reads, or when they are opened."""
    real = Path.open

    def opened(path: Path, *arguments: Any, **more: Any) -> Any:
        if not path.name.endswith(suffix):
            return real(path, *arguments, **more)
        error = OSError(number, os.strerror(number), str(path))
        if reads is None:
            raise error
        return Failing(real(path, *arguments, **more), reads, error)

    monkeypatch.setattr(Path, "open", opened)


@dataclass
class Traces:
    """What an attempt left."""

    log: str  #: this system's lines
    others: str  #: Celery's lines, and what the task ended with
    redis: str

    @property
    def names(self) -> set[str]:
        return found((self.log + self.others + self.redis).encode("utf-8", "surrogatepass"))


Upload = Callable[[FolderSource], Traces]


@pytest.fixture
def upload(
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> Iterator[Upload]:
    """Do the upload of a listed folder as a worker does, from the message to Celery's log."""
    for module in (chunk_module, retry):
        monkeypatch.setattr(module, "pause", lambda seconds: False)
    handlers, level, propagate = LOGGER.handlers[:], LOGGER.level, LOGGER.propagate
    set_up("json")
    lines = io.StringIO()
    cast("logging.StreamHandler[Any]", LOGGER.handlers[0]).setStream(lines)
    pacs = str(tmp_path / "pacs")
    settings = Settings(redis_url=redis_url, pacs_url=pacs, pacs_retry_seconds=60)  # none of it is slept
    app = make_app(settings)
    process = registry.WorkerResources(settings)

    def task(job: Job, chunk: int, items: list[Any]) -> None:
        body = partial(registry.upload, process, job)
        registry.runner_of(process, app).run(Stage.UPLOAD, job, chunk, items, body)

    # Not `registry.register`: Celery would give its tasks to the applications of other tests too.
    traced = build_tracer("upload", app.task(task, name="upload", shared=False), app=app)

    def upload(source: FolderSource) -> Traces:
        items = [{"i": 0, "entry": 0, "no": NUMBER}]
        job = a_job("run1", source.spec, pacs=pacs)
        request = {"id": "run1.1.0", "task": "upload", "hostname": "here", "is_eager": False}
        with caplog.at_level(logging.DEBUG):
            ended = traced("run1.1.0", (job, 1, items), {}, request)
        others = caplog.text + str(ended) + str([vars(record) for record in caplog.records])
        return Traces(lines.getvalue(), others, everything(process.claims))

    yield upload
    LOGGER.handlers[:], LOGGER.level, LOGGER.propagate = handlers, level, propagate
    process.claims.broker.close()
    app.close()


def everything(claims: Claims) -> str:
    """Return all that Redis holds."""
    client: Any = claims.broker.client
    read = {
        "string": client.get,
        "hash": client.hgetall,
        "list": lambda key: client.lrange(key, 0, -1),
        "set": client.smembers,
        "zset": lambda key: client.zrange(key, 0, -1),
    }
    keys: list[str] = client.keys()
    return str([(key, read[str(client.type(key))](key)) for key in keys])


def listed(tmp_path: Path, suffix: str) -> FolderSource:
    """A folder with one file of a patient that is listed, and another that keeps it from being an empty mount point."""
    name = f"{_FOLDER}/{_NAME}{suffix}".encode()
    (tmp_path / "in" / _FOLDER).mkdir(parents=True)
    (tmp_path / "in" / os.fsdecode(name)).write_bytes(FILES[suffix])
    (tmp_path / "in" / _FOLDER / "another").write_bytes(b"x")
    (tmp_path / "out").mkdir()
    source = FolderSource(tmp_path / "in", tmp_path / "out" / "source.list")
    (inner,) = source.inside(name) or [None]
    source.listing.write_bytes(listing_record(name, inner))
    return source


def waiting(left: Traces, number: int) -> dict[str, Any]:
    """Return the line that says what is waited for."""
    lines = [json.loads(line) for line in left.log.splitlines()]
    line: dict[str, Any] = next(one for one in lines if one["event"] == "service.waiting")
    assert os.strerror(number) in line["error"]
    assert (line["run"], line["chunk"], line["item"], line["number"]) == ("run1", 1, 0, NUMBER)
    return line


@pytest.mark.parametrize("reads", [None, 0, 1, 2, 3], ids=lambda reads: f"reads-{reads}")
@pytest.mark.parametrize("name", ERRNOS)
@pytest.mark.parametrize("suffix", FILES)
def test_a_file_that_its_disk_fails_on_is_not_named(
    upload: Upload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, name: str, reads: int | None
) -> None:
    source, number = listed(tmp_path, suffix), ERRNOS[name]
    fail(monkeypatch, suffix, number, reads)
    left = upload(source)
    assert left.names == set()
    if reads is None and number in UNAVAILABLE_ERRNOS:
        waiting(left, number)
        assert "Reject" in left.others  # Celery's line of a chunk that goes back, with its traceback
    elif reads is None:
        assert '"reason": "unreadable"' in left.log


def test_a_zip_in_a_folder_that_fails_is_called_by_its_kind(
    upload: Upload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = listed(tmp_path, ".zip")
    fail(monkeypatch, ".zip", errno.EIO, 0)
    assert waiting(upload(source), errno.EIO)["error"].startswith("a zip in the folder: ")


def test_a_message_says_each_items_number_in_the_run() -> None:
    """It is what a worker can say of an item, and `items` and `quarantine` list an item under it."""
    items = items_of(Stage.UPLOAD, ChunkRow(3, [(70, "40"), (72, "90")]))
    assert items == [{"i": 0, "entry": "40", "no": 70}, {"i": 1, "entry": "90", "no": 72}]


@pytest.mark.parametrize("name", ERRNOS)
def test_a_list_that_can_not_be_read_names_nothing(
    upload: Upload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    source = listed(tmp_path, ".dcm")
    fail(monkeypatch, ".list", ERRNOS[name], None)
    left = upload(source)
    assert left.names == set()
    waiting(left, ERRNOS[name])


@pytest.mark.parametrize("name", [*ERRNOS, "changed"])
def test_a_table_that_can_not_be_read_shows_no_row(
    upload: Upload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Of a table without a header the first line is a patient's."""
    source, table = listed(tmp_path, ".png"), tmp_path / "table.csv"
    table.write_text(f"{_NAME},{_FOLDER}\n")
    source.spec["conversion"] = {
        "make_uids": False,
        "wrap_images": True,
        "table": str(table),
        "table_sha256": table_sha256(table) if name in ERRNOS else "0" * 64,
    }
    if name in ERRNOS:
        fail(monkeypatch, ".csv", ERRNOS[name], None)
    left = upload(source)
    assert left.names == set()
    assert "the table" in left.log or "this table" in left.log


def test_a_bug_is_told_without_the_words_of_its_cause(
    upload: Upload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Celery logs a task's exception with its text and its chain, and Flower shows it."""

    def buggy(*_: object) -> object:
        raise ValueError(_NAME) from OSError(errno.EIO, "no", f"/{_FOLDER}/{_NAME}")

    monkeypatch.setattr("worker.tasks.upload.FolderEntries", buggy)
    left = upload(listed(tmp_path, ".dcm"))
    assert left.names == set()
    assert "StageFailed: ValueError at test_source_privacy.py" in left.others
    assert "in buggy" in left.others


@pytest.mark.parametrize("name", ERRNOS)
def test_listing_a_zip_that_its_disk_fails_on_does_not_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What the producer waits for stands on its terminal, in `status`, and in notifications."""
    source = listed(tmp_path, ".zip")
    source.listing.unlink()
    fail(monkeypatch, ".zip", ERRNOS[name], None)
    try:
        list(source.pages(""))
    except SourceUnavailable as error:
        assert found(str(error).encode()) == set()
    else:
        assert ERRNOS[name] not in UNAVAILABLE_ERRNOS
