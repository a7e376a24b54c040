"""The command line as a user meets it: bad input has one clear line and an exit status, never a trace."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from click import BadParameter
from click.testing import CliRunner

from backlog.errors import UsageError
from backlog.settings import Settings
from producer.cli.main import main
from producer.cli.options import selection_of
from producer.disk import DiskNeed
from producer.ledger.ledger import Ledger
from producer.run.create import create
from producer.run.folder import Paths
from producer.run.published import read_published
from producer.sources.open import Selection
from tests.conftest import Cli
from tests.support.commands import PROGRAM, Done, run_command, started_command
from tests.support.dicom_images import chest, dicom
from tests.support.ended_runs import ended_run, harvest, list_items, new_ledger, reported, some_scores
from tests.support.report_gate import ReportGate
from tests.support.servers import ROOT, OrthancServer, RedisServer, free_port, wait_until


def call(*arguments: object, cwd: Path = ROOT, **settings: str) -> Done:
    """Run a command that needs no weights."""
    return run_command(arguments, settings=settings, cwd=cwd)


def fails(done: Done, status: int, words: str) -> None:
    assert done.returncode == status, (done.stdout, done.stderr)
    assert re.search(words, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 4, done.stderr


def zipped(path: Path, count: int = 1, **more: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(count):
            archive.writestr(
                f"m{i}", dicom(chest(64, 64 + i % 9), SOPInstanceUID=f"1.2.{i + 1}", PatientName="Doe^Jane")
            )
        for name, content in more.items():
            archive.writestr(name, content)
    return path


# -- help ----------------------------------------------------------------------------------------------------


def test_help_comes_at_once() -> None:
    spent = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = started_command(["--help"], environment=os.environ, cwd=ROOT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) <= 0.3, spent
    assert "Exit status" in done.stdout
    assert "not for diagnosis" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    "words",
    [(), ("--version",), ("settings",), ("plan", "nothing.zip"), ("fly",), ("status", ".")],
    ids=" ".join,
)
def test_a_forked_command_ends_as_one_that_is_started(tmp_path: Path, words: tuple[str, ...]) -> None:
    """These tests call most commands by a fork; what it says, and how it ends, has to be the program's."""
    started = started_command(words, environment=os.environ, cwd=tmp_path)
    forked = run_command(words, settings={}, cwd=tmp_path)
    assert (forked.returncode, forked.stdout, forked.stderr) == (
        started.returncode,
        started.stdout,
        started.stderr,
    )


def test_a_command_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(subprocess.TimeoutExpired):
        run_command(["inspect", "pipe"], settings={}, cwd=tmp_path, timeout=0.5)
    assert run_command(["--version"], settings={}, cwd=tmp_path).returncode == 0


def test_every_command_has_help() -> None:
    for name in main.commands:
        done = CliRunner().invoke(main, [name, "--help"])
        assert done.exit_code == 0, name
        assert len(done.output.splitlines()) > 3


def test_the_version_is_said() -> None:
    assert re.search(r"\d+\.\d+.*, build ", call("--version").stdout)
    assert re.search(r"\d+\.\d+.*, compilação ", call("--version", CXR_LANGUAGE="pt-BR").stdout)


# -- what is wrong before anything begins --------------------------------------------------------------------


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_source_that_is_none_is_named(tmp_path: Path, command: str) -> None:
    (tmp_path / "text").write_text("no zip")
    whole = zipped(tmp_path / "z.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) - 60])
    for source, words in [
        ("nothing.zip", "nothing.zip: no such file"),
        ("text", "no zip archive"),
        ("cut.zip", "cut off"),
        ("orthanc", "needs the address"),
    ]:
        fails(call(command, source, cwd=tmp_path), 2, words)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["cut.zip", "text", "z.zip"], "a folder was left"


def test_options_that_do_not_go_together_are_named(tmp_path: Path) -> None:
    zipped(tmp_path / "z.zip")
    fails(call("run", "z.zip", "--since", "2024-01-01", cwd=tmp_path), 2, "taken whole")
    fails(call("run", "orthanc", "--pacs", "http://x", "--since", "yesterday", cwd=tmp_path), 2, "no date")
    wrong = ("--study-date", "2000-01-01-2030-12-31")
    fails(
        call("run", "orthanc", "--pacs", "http://x", *wrong, cwd=tmp_path), 2, "no date; write it as 20240101"
    )
    fails(call("run", "orthanc", "--pacs", "http://x", "--modality", "CR;DX", cwd=tmp_path), 2, "no modality")
    fails(call("run", "z.zip", "--workers", "0", cwd=tmp_path), 2, "workers")
    fails(call("run", cwd=tmp_path), 2, "SOURCE")
    fails(call("fly", cwd=tmp_path), 2, "fly")


def test_selections_are_taken_as_people_and_as_dicom_write_them() -> None:
    for written, meant in [
        ((), ""),
        (("CR",), "CR"),
        (("CR", "DX"), "CR\\DX"),
        (("cr, dx",), "CR\\DX"),
        (("CR\\DX", "DX", "xr"), "CR\\DX\\XR"),
        (("CR,",), "CR"),
    ]:
        assert selection_of("", written, "").modality == meant
    for dates in ("", "20240131", "20240101-", "-20241231", "20240101-20240101"):
        assert selection_of("", (), dates).study_date == dates
    for dates in ("20241301", "20240231", "2024", "-", "--", "20240101-20230101", "1-2-3", "today"):
        with pytest.raises(BadParameter):
            selection_of("", (), dates)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("CXR_REDIS", "x", "unknown setting CXR_REDIS"),
        ("CXR_CHUNK_SIZE", "many", "CXR_CHUNK_SIZE"),
        ("CXR_LANGUAGE", "de", "none of en, pt-BR"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, name: str, value: str, words: str) -> None:
    zipped(tmp_path / "z.zip")
    for command in ("run", "plan"):
        fails(call(command, "z.zip", cwd=tmp_path, **{name: value}), 2, words)


def test_a_folder_that_holds_no_run_is_named(tmp_path: Path) -> None:
    """Asked of the commands in this process: two dozen of them would take half a minute to start."""
    empty = tmp_path / "empty"
    empty.mkdir()
    commands = [
        *(["status"], ["export"], ["quarantine"], ["quarantine", "list"], ["verify"], ["retract"]),
        *(["retract", "--yes"], ["pause"], ["cancel"], ["resume"], ["summary"], ["audit", "verify"]),
        *(["quarantine", "show", "7"], ["quarantine", "replay", "--to", str(tmp_path / "new")]),
    ]
    for words in commands:
        for out in (empty, tmp_path / "nothing"):
            arguments = (
                [*words[:2], str(out), *words[2:]]
                if words[0] == "quarantine" and len(words) > 2
                else [*words, str(out)]
            )
            done = CliRunner().invoke(main, arguments)
            assert done.exit_code == 2, (arguments, done.output)
            assert "no run here" in done.output, arguments
    assert [one.name for one in tmp_path.iterdir()] == ["empty"]
    assert not list(empty.iterdir())


def test_a_ledger_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(b"no database" * 999)
    fails(call("status", tmp_path), 2, "can't be opened")


def test_an_out_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    zipped(tmp_path / "z.zip")
    (tmp_path / "file").write_text("x")
    fails(call("run", "z.zip", "--out", "file/below", cwd=tmp_path), 2, "can't be made")
    fails(call("run", "z.zip", "--out", "file", cwd=tmp_path), 2, "file")
    if Path("/proc/1").exists():
        fails(call("run", "z.zip", "--out", "/proc/nowhere", cwd=tmp_path), 2, "can't be made")


def test_a_pacs_that_is_unavailable_or_refuses_ends_the_command(
    tmp_path: Path, orthanc: OrthancServer
) -> None:
    zipped(tmp_path / "z.zip")
    away = f"http://127.0.0.1:{free_port()}"
    fails(call("run", "z.zip", "--out", "a", "--pacs", away, cwd=tmp_path), 5, "is unavailable")
    wrong = {"CXR_PACS_USERNAME": "tester", "CXR_PACS_PASSWORD": "wrong"}
    done = call("run", "z.zip", "--out", "b", "--pacs", orthanc.url, cwd=tmp_path, **wrong)
    fails(done, 2, "CXR_PACS_PASSWORD")
    assert "wrong" not in done.stderr
    fails(call("plan", "orthanc", "--pacs", orthanc.url, cwd=tmp_path, **wrong), 2, "CXR_PACS_PASSWORD")
    fails(call("run", "z.zip", "--out", "c", "--pacs", orthanc.url + "/nothing", cwd=tmp_path), 2, ".")
    for scheme in ("http", "HTTP", "ftp"):
        secret = f"{scheme}://tester:hunter2@127.0.0.1:{orthanc.port}"
        done = call("run", "z.zip", "--pacs", secret, cwd=tmp_path)
        fails(done, 2, "CXR_PACS_(PASSWORD|URL)")
        assert "hunter2" not in done.stderr
    # Found: the run was made first, with that address in it, and a right one was refused from then on.
    assert [one.name for one in tmp_path.iterdir()] == ["z.zip"]


def test_a_source_that_is_not_there_now_has_a_status_of_its_own(tmp_path: Path) -> None:
    """Its disk may be mounted again: a job that runs the command tries again, and doesn't fail for good."""
    (tmp_path / "disk" / "folder").mkdir(parents=True)
    zipped(tmp_path / "disk" / "z.zip")
    (tmp_path / "disk" / "folder" / "a").touch()
    for number, source in enumerate(("z.zip", "folder")):
        out = Paths(tmp_path / f"out{number}")
        create(str(tmp_path / "disk" / source), Settings(), str(out.pacs), out, Selection(), workers=1)
    (tmp_path / "disk").rename(tmp_path / "elsewhere")
    for number in range(2):
        fails(call("resume", tmp_path / f"out{number}"), 5, "can't be read.*is its disk there")
    fails(call("run", tmp_path / "disk" / "z.zip", cwd=tmp_path), 2, "no such file or folder")


@pytest.mark.timeout(60, func_only=True)
def test_a_redis_that_is_unavailable_or_refuses_ends_the_command(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """It is waited for in the middle of a run; at its beginning the address is rather wrong."""
    zipped(tmp_path / "z.zip")
    away = f"redis://127.0.0.1:{free_port()}/0"
    fails(
        call("run", "z.zip", "--out", "a", cwd=tmp_path, CXR_REDIS_URL=away),
        5,
        "Redis is unavailable.*CXR_REDIS_URL",
    )
    fails(call("run", "z.zip", "--out", "b", cwd=tmp_path, CXR_REDIS_URL="nonsense"), 2, "CXR_REDIS_URL")
    redis_server.client.config_set("requirepass", "right")
    try:
        done = call(
            "run",
            "z.zip",
            "--out",
            "c",
            cwd=tmp_path,
            CXR_REDIS_URL=redis_server.url,
            CXR_REDIS_PASSWORD="no",
        )
    finally:
        redis_server.client.__class__(port=redis_server.port, password="right").config_set("requirepass", "")
    fails(done, 2, "CXR_REDIS_PASSWORD")


def test_weights_that_are_missing_or_wrong_end_the_command(tmp_path: Path) -> None:
    zipped(tmp_path / "z.zip")
    (tmp_path / "w.pt").write_bytes(b"no weights")
    fails(
        call("run", "z.zip", "--out", "a", cwd=tmp_path, CXR_WEIGHTS=str(tmp_path / "none.pt")), 2, "none.pt"
    )
    done = call(
        "run",
        "z.zip",
        "--out",
        "b",
        cwd=tmp_path,
        CXR_WEIGHTS=str(tmp_path / "w.pt"),
        CXR_WEIGHTS_SHA256="0" * 64,
    )
    fails(done, 2, "(?i)sha-?256|hash")


# -- runs ----------------------------------------------------------------------------------------------------


def test_a_run_is_looked_at_from_everywhere(cli: Cli, tmp_path: Path) -> None:
    """A locked member and a text: the rest of the commands on one finished run."""
    path = zipped(tmp_path / "z.zip", 2, locked=b"secret", text=b"no image")
    content = bytearray(path.read_bytes())
    content[
        content.index(b"PK\x01\x02", content.index(b"locked", content.index(b"PK\x01\x02")) - 46) + 8
    ] |= 1
    path.write_bytes(content)
    run = cli("run", "z.zip", "--out", "out", "--pacs", "pacs", "--workers", 1)
    assert run.returncode == 3, run.stderr
    assert "SEEDED WEIGHTS" in run.stdout
    assert "Doe" not in run.stdout + run.stderr
    for log in (tmp_path / "out" / "logs").iterdir():
        text = log.read_text()
        assert "Doe" not in text
        assert "Traceback" not in text, text
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["quarantined"] == {"encrypted": 1, "not_dicom": 1}
    assert summary["reported"] == 2

    fails(cli("run", "z.zip", "--out", "out"), 2, "holds a run already")

    # From another folder: the run knows where its things are.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    out = tmp_path / "out"
    assert call("verify", out, cwd=elsewhere).returncode == 0
    status = json.loads(call("status", out, "--json", cwd=elsewhere).stdout)
    assert (status["state"], status["reported"]) == ("complete", 2)
    assert "complete" in call("status", out, "--watch", cwd=elsewhere).stdout  # ends, since the run has
    assert "encrypted" in call("quarantine", out, "--reason", "encrypted", cwd=elsewhere).stdout
    names = call("quarantine", out, "--names", cwd=elsewhere).stdout
    assert "locked" in names
    assert "text" in names
    shown = call("quarantine", "show", out, 3, "--names", cwd=elsewhere).stdout
    assert "not_dicom" in shown
    fails(call("quarantine", "show", out, 99, cwd=elsewhere), 2, "no item 99")
    fails(
        call("quarantine", "replay", out, "--to", "new", "--reason", "blank", cwd=elsewhere),
        2,
        "nothing is quarantined",
    )
    assert not list(elsewhere.iterdir())

    for form in ("csv", "jsonl", "parquet"):
        done = call("export", out, "--format", form, "--to", f"x.{form}", cwd=elsewhere)
        assert done.returncode == 0, done.stderr
        assert "2 rows" in done.stdout
        fails(call("export", out, "--format", form, "--to", "no/x", cwd=elsewhere), 2, "can't be written")

    replay = cli("quarantine", "replay", out, "--to", tmp_path / "replay")
    assert replay.returncode == 3, replay.stderr
    assert "Trying 2 items again" in replay.stdout
    again = json.loads((tmp_path / "replay" / "summary.json").read_text())
    assert (again["complete"], again["total"], again["reported"]) == (True, 2, 0)

    # What is listed for deletion is not deleted; what was changed since is not ours to delete.
    assert "2 reports were written" in call("retract", out, cwd=elsewhere).stdout
    reports = [one for one in (tmp_path / "pacs").rglob("*.dcm") if b"cxr-backlog" in one.read_bytes()]
    assert len(reports) == 2
    reports[0].write_bytes(reports[0].read_bytes() + b"\0\0")
    verify = call("verify", out, cwd=elsewhere)
    assert verify.returncode == 1
    assert "Different   1" in verify.stdout
    assert "Deleted 1 reports. 1 were gone or changed" in call("retract", out, "--yes", cwd=elsewhere).stdout
    assert reports[0].exists()
    assert not reports[1].exists()
    verify = call("verify", out, cwd=elsewhere)
    assert verify.returncode == 1
    assert "Missing     0\nDifferent   1" in verify.stdout
    assert "Retracted   1" in verify.stdout
    reports[0].unlink()
    assert "Deleted 0 reports. 1 were gone" in call("retract", out, "--yes", cwd=elsewhere).stdout
    assert call("audit", "verify", out, cwd=elsewhere).returncode == 0


def test_a_plan_counts_derived_objects_and_the_disk(tmp_path: Path) -> None:
    zipped(tmp_path / "z.zip", 3)
    settings = {"CXR_DERIVED_OBJECTS": "pdf,capture,pdf-picture", "CXR_LANGUAGE": "en"}
    said = call("plan", "z.zip", cwd=tmp_path, **settings)
    assert "Derived   9 objects beside the reports: 3 capture, 3 pdf, 3 pdf-picture" in said.stdout
    assert re.search(r"Disk      about 1[45]\.\d MB needed here, [\d.,]+ [GM]B free", said.stdout), (
        said.stdout
    )
    made = json.loads(call("plan", "z.zip", "--json", cwd=tmp_path, **settings).stdout)
    assert made["derived_objects"] == {"pdf": 3, "capture": 3, "pdf-picture": 3}
    disk = made["disk"]
    assert (disk["folder"], disk["needed_in_pacs"]) == (str(tmp_path), 0)
    assert disk["needed"] == made["bytes"] + 3 * (1_700 + 50_000 + 45_000 + 4_800_000 + 150_000)
    assert disk["free"] > 0


def test_a_plan_says_where_the_disk_is_too_small() -> None:
    need = DiskNeed(Path("/"), free=10, here=11, pacs=0)
    assert not need.enough
    assert replace(need, free=11).enough
    assert replace(need, free=None).enough


def test_a_plan_of_nothing_says_so_once(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = call("plan", "empty", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("holds no files")) == (0, 1), done.stderr


def test_a_run_that_only_may_be_read_is_looked_at(tmp_path: Path) -> None:
    """Found: an interrupted run showed as running, and a ledger on a read-only medium was refused."""
    complete, begun = tmp_path / "complete", tmp_path / "begun"
    ended_run(complete).close()
    ledger = new_ledger(begun)
    list_items(ledger, 40)
    harvest(ledger, lambda item: reported(item, some_scores(item)), 1)
    ledger.close()
    for out in (complete, begun):
        (out / "lock").touch()
        (out / "lock").chmod(0o444)
        out.chmod(0o555)
    # The superuser may write everywhere, unless that is taken from him.
    bound = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []

    def look(*arguments: object) -> str:
        command = [*bound, PROGRAM, *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "(complete)" in look("status", complete)
    assert "(interrupted)" in look("status", begun)
    assert "40 rows" in look("export", complete, "--to", tmp_path / "scores.csv")
    for out in (complete, begun):
        assert {one.name for one in out.iterdir()} == {"ledger.sqlite", "lock"}
        out.chmod(0o755)


def test_a_run_that_is_complete_is_not_done_again(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    begun = cli("run", "empty", "--out", "out")
    assert begun.returncode == 0
    assert "holds no files" in begun.stdout + begun.stderr
    resumed = cli("resume", "out")
    assert resumed.returncode == 0, resumed.stderr
    assert "Total       0" in resumed.stdout
    assert "Preparing the model" not in resumed.stdout


def test_a_complete_run_is_resumed_without_servers(tmp_path: Path) -> None:
    """Neither its zip, nor Redis, nor the PACS is needed to say so, and to write what it has come to."""
    out = tmp_path / "out"
    ended_run(out, place=str(out)).close()
    nobody = f"127.0.0.1:{free_port()}"
    done = call("resume", out, CXR_REDIS_URL=f"redis://{nobody}/0", CXR_PACS_URL=f"http://{nobody}")
    assert done.returncode == 0, done.stderr
    assert "Reported    40" in done.stdout
    assert (out / "scores.csv").exists()


# -- interruption --------------------------------------------------------------------------------------------

Begin = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def begin(model_cache: Path, tmp_path: Path) -> Begin:
    """Start the command line and go on."""

    def start(*arguments: object, **settings: str) -> subprocess.Popen[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("CXR_")}
        environment |= {"CXR_WEIGHTS": "seeded", "CXR_CACHE": str(model_cache)} | settings
        return subprocess.Popen(
            [PROGRAM, *map(str, arguments)],
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return start


@pytest.fixture
def gate(orthanc: OrthancServer) -> Iterator[ReportGate]:
    """A gate before an empty Orthanc, closed: no count of images is too small for an interruption."""
    with ReportGate(orthanc.port) as made:
        yield made


def behind(orthanc: OrthancServer) -> dict[str, str]:
    """Settings for a run whose reports a gate holds back for as long as a test likes."""
    return orthanc.environment | {"CXR_PACS_RETRY_SECONDS": "600"}


def ended(out: Path) -> int:
    try:
        ledger = Ledger(Paths(out).ledger, write=False)
    except UsageError:
        return 0  # it is being made
    count = ledger.tally().ended
    ledger.close()
    return count


def children(process: subprocess.Popen[str]) -> list[int]:
    return [child.pid for child in psutil.Process(process.pid).children(recursive=True)]


def alive(pids: list[int]) -> list[int]:
    return [
        pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    ]


def accounted(out: Path, count: int) -> None:
    """Assert that each of so many items has one report on record."""
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["complete"], summary["total"], summary["reported"]) == (True, count, count), summary
    ledger = Ledger(Paths(out).ledger, write=False)
    reports = {item.sr_instance for item in ledger.items()}
    assert len(reports) == count
    assert not ledger.waiting(1) + ledger.in_flight()
    ledger.close()


def more_than(out: Path, before: int) -> None:
    wait_until(lambda: ended(out) > before, 90, "something has ended")


def gone(pids: list[int]) -> None:
    wait_until(lambda: not alive(pids), 60, "its servers end with it")


def once(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGINT)
    return 4


def limited(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGTERM)
    return 4


def twice(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    return 4


def at_once(process: subprocess.Popen[str]) -> int:
    process.kill()
    return -signal.SIGKILL


def test_a_run_is_gone_on_with_however_it_was_ended(
    begin: Begin, cli: Cli, tmp_path: Path, orthanc: OrthancServer, gate: ReportGate
) -> None:
    count, a_round = 40, 8
    out, settings = tmp_path / "out", behind(orthanc) | {"CXR_CHUNK_SIZE": "2"}
    zipped(tmp_path / "z.zip", count)
    process = begin("run", "z.zip", "--out", "out", "--workers", 1, "--pacs", gate.url, **settings)
    for end in (once, limited, twice, at_once):
        gate.allow(a_round)
        more_than(out, ended(out))
        pids = children(process)
        fails(call("resume", out, CXR_WEIGHTS="seeded"), 2, "another producer is at work")
        expected = end(process)
        text, _ = process.communicate(timeout=60)
        assert process.returncode == expected, text
        if end in (once, limited):
            assert "cxr-backlog resume" in text
            assert json.loads((out / "summary.json").read_text())["complete"] is False
            assert not alive(pids), "something was left behind"
        gone(pids)
        assert json.loads(call("status", out, "--json").stdout)["state"] == "interrupted"
        if end is not at_once:
            process = begin("resume", "out", **settings)
    gate.open()
    done = cli("resume", "out", **settings)
    assert done.returncode == 0, done.stderr
    accounted(out, count)
    assert len(orthanc.reports()) == count


def test_a_run_is_interrupted_while_the_model_is_prepared(begin: Begin, cli: Cli, tmp_path: Path) -> None:
    """Found: Ctrl-C reached the process that prepares it too, and the command ended with a trace and status 1."""
    zipped(tmp_path / "z.zip", 2)
    # An empty cache: what was checked on this machine before is not checked again.
    process = begin("run", "z.zip", "--out", "out", "--workers", 1, CXR_CACHE=str(tmp_path / "cache"))
    assert process.stdout is not None
    while "checking what it computes" not in process.stdout.readline():
        pass
    pids = children(process)
    os.killpg(process.pid, signal.SIGINT)  # the terminal signals all that run in it
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 4, text
    assert "cxr-backlog resume" in text
    assert "Traceback" not in text
    assert not alive(pids)
    done = cli("resume", "out")
    assert done.returncode == 0, done.stderr
    accounted(tmp_path / "out", 2)
    held = [path.read_bytes()[:800] for path in (tmp_path / "out" / "pacs").rglob("*.dcm")]
    assert sum(b"1.2.840.10008.5.1.4.1.1.88." in one for one in held) == 2


def child_with(process: subprocess.Popen[str], words: list[str]) -> psutil.Process:
    """The child whose command line holds these words; others may come and go meanwhile."""
    found = []
    for child in psutil.Process(process.pid).children():
        with suppress(psutil.NoSuchProcess):
            if all(any(word in argument for argument in child.cmdline()) for word in words):
                found.append(child)
    (one,) = found
    return one


def test_a_run_whose_own_servers_are_killed_goes_on(
    begin: Begin, tmp_path: Path, orthanc: OrthancServer, gate: ReportGate
) -> None:
    """Redis first, with all that it held, then each of the two workers, with their processes."""
    count, a_round = 30, 8
    out = tmp_path / "out"
    zipped(tmp_path / "z.zip", count)
    process = begin(
        *("run", "z.zip", "--out", "out", "--workers", 1, "--pacs", gate.url),
        **behind(orthanc),
        CXR_CHUNK_SIZE="2",
        CXR_RECONCILE_SECONDS="1",
        CXR_LEASE_SECONDS="3",
    )
    for words in (["redis-server"], ["--name", "io"], ["--name", "inference"]):
        gate.allow(a_round)
        more_than(out, ended(out))
        victim = child_with(process, words)
        for one in [victim, *victim.children(recursive=True)]:
            one.kill()
    gate.open()
    text, _ = process.communicate(timeout=200)
    assert process.returncode == 0, text
    for name in ("redis", "io", "inference"):
        assert f"The {name} process died; it was started again." in text
    accounted(out, count)
    assert len(orthanc.reports()) == count


def is_held(out: Path) -> bool:
    """Whether the run's producer has told its workers that it is paused."""
    published = read_published(Paths(out).progress)
    return published is not None and published.progress.paused


def _settled(out: Path) -> int:
    """How many items of a paused run have ended, once each worker has ended the image that it had."""
    seen, since = ended(out), time.monotonic()
    until = since + 60
    while time.monotonic() - since < 5:  # longer than a lease, and than an image
        assert time.monotonic() < until, "it goes on though it is paused"
        time.sleep(0.1)
        if ended(out) != seen:
            seen, since = ended(out), time.monotonic()
    return seen


def test_a_run_is_paused_cancelled_and_taken_up_again(
    begin: Begin, cli: Cli, tmp_path: Path, orthanc: OrthancServer, gate: ReportGate
) -> None:
    count, pacs = 40, orthanc.environment
    zipped(tmp_path / "z.zip", count)
    out, settings = tmp_path / "out", behind(orthanc) | {"CXR_CHUNK_SIZE": "1", "CXR_WINDOW": "2"}
    process = begin("run", "z.zip", "--out", "out", "--workers", 1, "--pacs", gate.url, **settings)
    gate.allow(3)
    more_than(out, 0)
    assert call("pause", out).returncode == 0
    wait_until(lambda: is_held(out), 60, "the workers are told")
    gate.allow(20)  # from now on it is the pause that holds them back, each but for the image that it has
    seen = _settled(out)
    assert seen <= 4, "it goes on though it is paused"
    assert json.loads(call("status", out, "--json").stdout)["state"] == "paused"
    assert "goes on" in call("resume", out).stdout
    wait_until(lambda: ended(out) > seen, 60, "it goes on")
    fails(call("retract", out, "--yes"), 2, "the run is at work")
    assert call("cancel", out).returncode == 0
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 4, text
    assert json.loads(call("status", out, "--json").stdout)["state"] == "cancelled"
    fails(call("verify", out, cwd=tmp_path, **pacs), 1, "^$")
    seen = ended(out)
    assert len(orthanc.reports()) == seen
    assert f"Deleted {seen} reports." in call("retract", out, "--yes", cwd=tmp_path, **pacs).stdout
    assert not orthanc.reports()
    # Taken up again it does the rest, and what was taken back stays so.
    gate.open()
    done = cli("resume", "out", **settings)
    assert done.returncode == 0, done.stderr
    verify = call("verify", out, cwd=tmp_path, **pacs)
    assert verify.returncode == 0, verify.stdout
    assert f"Right       {count - seen}" in verify.stdout
    assert f"Retracted   {seen}" in verify.stdout


@pytest.mark.parametrize("end", [once, at_once], ids=["interrupted", "killed"])
def test_an_interrupted_run_is_retracted_in_one_step(
    begin: Begin,
    tmp_path: Path,
    orthanc: OrthancServer,
    gate: ReportGate,
    end: Callable[[subprocess.Popen[str]], int],
) -> None:
    """One that was killed may have reports that its ledger doesn't know: they are found by their UIDs."""
    zipped(tmp_path / "z.zip", 20)
    out, settings = tmp_path / "out", behind(orthanc) | {"CXR_CHUNK_SIZE": "4"}
    process = begin("run", "z.zip", "--out", "out", "--workers", 1, "--pacs", gate.url, **settings)
    gate.allow(6)
    more_than(out, 0)
    pids = children(process)
    expected = end(process)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == expected, text
    gone(pids)
    held = len(orthanc.reports())
    assert held
    for said in ("it is cancelled first", "Deleted 0 reports"):
        done = call("retract", out, "--yes", cwd=tmp_path, **orthanc.environment)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
        assert not orthanc.reports()
    assert json.loads(call("status", out, "--json").stdout)["state"] == "cancelled"
