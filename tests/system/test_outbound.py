"""Nothing phones home: the main job under `strace`, every connection and every file that it makes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import files
from pathlib import Path

import pytest

from backlog.environment import NO_TELEMETRY
from tests.chaos.images import write_backlog
from tests.conftest import need
from tests.support.servers import ROOT, OrthancServer

#: Set in many a machine that runs tests, and each would hide what is looked for here.
_HUSHING = ("CI", "GITHUB_ACTIONS", "ORT_RUNNING_UNIT_TESTS", "DO_NOT_TRACK", *NO_TELEMETRY, "MPLCONFIGDIR")

_INTERNET = re.compile(
    r"sa_family=AF_INET6?, sin6?_port=htons\((\d+)\).*?(?:inet_addr\(|inet_pton\(AF_INET6, )\"([^\"]+)"
)
_PATHS = re.compile(r"(?<!sun_path=)\"((?:[^\"\\]|\\.)*)\"")
_MAKING = "open,openat,creat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink,symlinkat"
_STRACE = ["strace", "-f", "--seccomp-bpf", "-qq", "-s", "256", "-e", f"trace=network,{_MAKING}", "-o"]
_MAKES = re.compile(r"O_CREAT|\b(?:creat|mkdir|mkdirat|rename|renameat2?|link|linkat|symlink|symlinkat)\(")

#: libuuid's clock, which it keeps on the machine where the user may: redis-py makes such UUIDs.
_OF_THE_SYSTEM = ("/dev/", "/proc/", "/var/lib/libuuid/")


class Trace:
    """What `strace -f` wrote."""

    def __init__(self, path: Path) -> None:
        self.lines = path.read_text(errors="replace").splitlines()

    def peers(self) -> set[tuple[str, int]]:
        """Return every address that was connected or sent to: a look-up is one of port 53."""
        reaching = (line for line in self.lines if _reaches(line))
        return {(found[2], int(found[1])) for line in reaching for found in _INTERNET.finditer(line)}

    def made(self) -> Iterator[Path]:
        """Yield every absolute path that something was made at."""
        for line in self.lines:
            if _MAKES.search(line) and " = -1 " not in line:
                for name in _PATHS.findall(line)[-1:]:
                    if name.startswith("/"):
                        yield Path(os.path.normpath(name))


def _reaches(line: str) -> bool:
    return any(f"{call}(" in line for call in ("connect", "sendto", "sendmsg", "sendmmsg"))


def traced(trace: Path, *command: str, home: Path, **settings: str) -> Trace:
    """Run a command to its end, as a user whose home is empty, and return what it and its children did."""
    need("strace")
    home.mkdir()
    (home / "tmp").mkdir()
    kept = {k: v for k, v in os.environ.items() if k not in _HUSHING and not k.startswith(("CXR_", "XDG_"))}
    done = subprocess.run(
        [*_STRACE, str(trace), *command],
        env=kept
        | {"HOME": str(home), "TMPDIR": str(home / "tmp"), "PYTHONDONTWRITEBYTECODE": "1"}
        | settings,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Trace(trace)


def test_a_trace_tells_a_look_up_and_a_file(tmp_path: Path) -> None:
    """The next test says nothing where this one fails. No packet leaves: nobody listens at port 53 here."""
    code = (
        "import os, socket\n"
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 53))\n"
        "open(os.path.expanduser('~/deviceid'), 'w')"
    )
    trace = traced(tmp_path / "trace", sys.executable, "-c", code, home=tmp_path / "home")
    assert ("127.0.0.1", 53) in trace.peers()
    assert tmp_path / "home" / "deviceid" in set(trace.made())


@pytest.mark.timeout(500)
def test_a_run_reaches_its_pacs_and_nothing_else(
    tmp_path: Path, model_cache: Path, orthanc: OrthancServer
) -> None:
    """Its own Redis is a socket below the temporary folder; there is a page, and there are derived objects."""
    source, out, cache, home = (tmp_path / name for name in ("backlog.zip", "out", "cache", "home"))
    write_backlog(source, 4)
    shutil.copytree(model_cache, cache)
    program = str(Path(sys.executable).with_name("cxr-backlog"))
    trace = traced(
        tmp_path / "trace",
        *(
            program,
            "run",
            str(source),
            "--out",
            str(out),
            "--workers",
            "1",
            "--derived-objects",
            "capture,pdf",
        ),
        home=home,
        CXR_PACS_URL=orthanc.url,
        CXR_WEIGHTS="seeded",
        CXR_CACHE=str(cache),
        **orthanc.environment,
    )
    assert (out / "summary.html").exists()
    assert {oct(one.stat().st_mode & 0o777) for one in out.rglob("*") if one.is_file()} == {"0o600"}
    assert {oct(one.stat().st_mode & 0o777) for one in (out, *out.rglob("*")) if one.is_dir()} == {"0o700"}
    assert trace.peers() == {("127.0.0.1", orthanc.port)}
    places = (out, cache, home / "tmp")
    elsewhere = {
        path
        for path in trace.made()
        if not any(path.is_relative_to(place) for place in places)
        and not str(path).startswith(_OF_THE_SYSTEM)
    }
    assert not elsewhere
    # torch leaves an empty folder below the temporary one.
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_the_model_is_scored_without_telemetry(tmp_path: Path, model_cache: Path) -> None:
    """However the worker's modules are loaded, and whatever the environment says."""
    home = tmp_path / "home"
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from worker.model.engine import load; from worker.model.weights import locate; from pathlib import Path\n"
        f"cache = Path({str(model_cache)!r})\n"
        "load(locate('seeded', '', cache, download=False), engine='onnxruntime', threads=1)"
    )
    trace = traced(tmp_path / "trace", sys.executable, "-c", code, home=home, ORT_DISABLE_TELEMETRY="0")
    assert trace.peers() == set()
    assert [path.name for path in home.rglob("*")] == ["tmp"]


def test_onnxruntime_documents_how_its_telemetry_is_disabled() -> None:
    """The installed version's own words: another way to switch it off, in another version, has to be read here."""
    (privacy,) = (one for one in files("onnxruntime") or [] if one.name == "Privacy.md")
    text = privacy.read_text(encoding="utf-8")
    assert "Set `ORT_DISABLE_TELEMETRY=1` before ONNX Runtime initializes" in text
