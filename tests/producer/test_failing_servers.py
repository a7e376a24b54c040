"""What a user reads where a server or a disk fails under a run: one line, and no trace."""

from __future__ import annotations

import errno
import sqlite3
import subprocess
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from backlog.broker.celery_app import make_app
from backlog.broker.claims import Claims
from backlog.pacs.orthanc import Orthanc
from backlog.settings import Settings
from producer.cli.main import main
from producer.dispatch.context import RunContext, Silent
from producer.dispatch.dispatcher import Dispatcher
from producer.dispatch.progress import RunProgress
from producer.ledger.ledger import Ledger
from producer.ledger.run_job import RunJob
from producer.sources.zip import ZipSource
from tests.conftest import need
from tests.support.dicom_images import chest, dicom
from tests.support.jobs import a_job
from tests.support.servers import RedisServer, free_port


@contextmanager
def a_redis(folder: Path, *options: str) -> Iterator[RedisServer]:
    need("redis-server")
    server = RedisServer(folder / "redis", options=list(options))
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def backlog(tmp_path: Path) -> Path:
    path = tmp_path / "backlog.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(40):
            archive.writestr(f"{number}.dcm", dicom(chest(32, 32), SOPInstanceUID=f"1.2.{number}"))
    return path


# -- what a user has to correct ------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["run", "doctor"])
@pytest.mark.parametrize("fault", ["cluster", "channels"])
def test_a_redis_that_celery_cant_use_is_named_in_a_line(
    tmp_path: Path, backlog: Path, fault: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, user, says = ["--cluster-enabled", "yes", "--cluster-port", str(free_port())], "", "is a cluster"
    if fault == "channels":
        users = tmp_path / "users.acl"
        users.write_text("user default on nopass ~* &* +@all\nuser cxr on >secret ~* resetchannels +@all\n")
        options, user, says = ["--aclfile", str(users)], "cxr:secret@", "no channels"
    with a_redis(tmp_path, *options) as server:
        monkeypatch.setenv("CXR_REDIS_URL", f"redis://{user}127.0.0.1:{server.port}/0")
        monkeypatch.setenv("CXR_PACS_URL", str(tmp_path / "pacs"))
        monkeypatch.chdir(tmp_path)
        words = ["run", str(backlog), "--out", str(tmp_path / "out")] if command == "run" else ["doctor"]
        done = CliRunner().invoke(main, words)
    about = [line for line in done.output.splitlines() if says in line]
    assert len(about) == 1, done.output
    assert "Traceback" not in done.output
    if command == "run":
        assert done.exit_code == 2
        assert done.output.splitlines()[-1] == about[0]


# -- what is waited for --------------------------------------------------------------------------------------


class Waiting(Silent):
    """Repairs what fails once the user has been told of it, and keeps what they read."""

    def __init__(self, repair: Callable[[], object]) -> None:
        self._repair = repair
        self.lines: list[str] = []

    def on_harvest(self) -> None:
        """Nothing: a fault may put a question to the PACS here, as a run does."""

    def on_progress(self, progress: RunProgress) -> None:
        """Keep the reason that the user is shown."""
        if progress.waiting_reason and not self.lines:
            self.lines.append(progress.waiting_reason)
            self._repair()


@contextmanager
def eio(backlog: Path, server: RedisServer, ledger: Path, patch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The zip's disk answers EIO while its directory is listed, as a soft NFS mount does."""
    failing = threading.Event()
    failing.set()
    opened = Path.open

    class Disk:
        def __init__(self, file: Any) -> None:
            self._file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def read(self, size: int = -1) -> bytes:
            if failing.is_set():
                raise OSError(errno.EIO, "Input/output error")
            return bytes(self._file.read(size))

    def other(self: Path, mode: str = "r", *more: Any, **others: Any) -> Any:
        file = opened(self, mode, *more, **others)
        return Disk(file) if self == backlog else file

    patch.setattr(Path, "open", other)
    yield failing.clear


@contextmanager
def locked(backlog: Path, server: RedisServer, ledger: Path, patch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Another program holds the ledger, as a backup or a database browser does."""
    patch.setattr("producer.ledger.run_database.LOCK_SECONDS", 0.1)
    with closing(sqlite3.connect(ledger, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield lambda: other.execute("ROLLBACK")


@contextmanager
def no_replicas(backlog: Path, server: RedisServer, ledger: Path, patch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Redis takes no writes, as a managed one without its replicas."""
    server.client.config_set("min-replicas-to-write", 1)
    yield lambda: server.client.config_set("min-replicas-to-write", 0)


@contextmanager
def a_page(backlog: Path, server: RedisServer, ledger: Path, patch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A proxy shows its log-in page to everybody: its session has expired, or its PACS is being served."""
    failing = threading.Event()
    failing.set()

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html>Log in</html>")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        with closing(Orthanc(f"http://127.0.0.1:{proxy.server_port}")) as pacs:
            patch.setattr(Waiting, "on_harvest", lambda _: pacs.identity() if failing.is_set() else None)
            yield failing.clear
        proxy.shutdown()


@contextmanager
def paused(backlog: Path, server: RedisServer, ledger: Path, patch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Redis answers nothing, as one that fails over: longer than we wait for an answer."""
    subprocess.run(
        ["redis-cli", "-p", str(server.port), "CLIENT", "PAUSE", "12000", "ALL"],
        check=True,
        capture_output=True,
    )
    yield lambda: None


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (eio, "the zip can't be read (Input/output error): is its disk there?"),
        (locked, "another program holds the run's ledger locked"),
        (no_replicas, "Redis takes no writes: "),
        (a_page, "is no Orthanc: see CXR_PACS_URL"),
        pytest.param(paused, "Redis is unavailable: TimeoutError", marks=pytest.mark.long),
    ],
)
def test_a_run_says_in_a_line_what_it_waits_for_and_goes_on(
    tmp_path: Path, backlog: Path, fault: Any, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ZipSource(backlog)
    with (
        a_redis(tmp_path) as server,
        closing(Ledger.create(tmp_path / "ledger.sqlite", {"job": a_job("run1")})) as ledger,
        closing(Claims(server.url).broker),
        closing(make_app(Settings(redis_url=server.url))) as app,
    ):
        claims = Claims(server.url)
        context = RunContext(
            ledger,
            claims,
            app,
            source,
            RunJob(ledger),
            chunk_size=4,
            window=8,
            reconcile_seconds=0,
            pause_file=tmp_path / "pause",
            give_up_file=tmp_path / "give-up",
        )
        ledger.acquire()
        with fault(backlog, server, ledger.path, monkeypatch) as repair:
            observer = Waiting(repair)
            producer = Dispatcher(context, observer)
            if fault is locked:  # as it is in the middle of a run
                monkeypatch.setattr(producer, "begin", lambda: None)
            producer.run(lambda: bool(observer.lines and producer.in_flight))
        claims.broker.close()
    (line,) = observer.lines
    assert says in line
    assert "\n" not in line
    assert len(producer.in_flight) == 1  # the first chunk went out: whose weights are not known yet
