"""Each fuzzing path for some hundred inputs, and that the fuzzing would see a bug. ``make fuzz`` takes its time."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from backlog.dicom.header import read_header
from backlog.dicom.parser import DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE
from backlog.errors import InstanceRejected, UsageError
from tests.fuzz import __main__ as fuzzing
from tests.fuzz import paths
from tests.fuzz.mutation import changed
from tests.fuzz.parts import parts_of
from tests.fuzz.paths import PATHS, walk
from tests.fuzz.seeds import MOST, seeds
from tests.support.dicom_images import chest, dicom
from tests.support.servers import ROOT

#: Changed inputs of each path. Seconds would be none on a busy machine.
_INPUTS = 200
#: More than any machine needs for them.
_SECONDS = 600
needs_atheris = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this Python or system"
)


def started(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@needs_atheris
@pytest.mark.parametrize("path", PATHS)
def test_nothing_new_is_found_in_some_hundred_inputs(path: str, tmp_path: Path) -> None:
    runs = len(seeds(path)) + _INPUTS
    ended = started("-m", "tests.fuzz", path, "--seconds", _SECONDS, "--runs", runs, "--folder", tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{path}: " in ended.stdout
    assert int(ended.stdout.split()[1]) >= runs


def planted(bug: str) -> tuple[str, ...]:
    """Return a child whose path stumbles over any attribute that the seed in its corpus has not.

    Four in ten of the changes that know what they change add one: among some hundred there is always one.
    """
    program = f"""
        import os, sys
        from pathlib import Path
        from tests.fuzz import child, paths
        from backlog.dicom.header import read_header

        folder = Path(sys.argv[2])
        seed = set(read_header((folder / "corpus" / "seed").read_bytes()).keys())

        def stumbles(file):
            if set(read_header(file).keys()) - seed:
                {bug}

        paths.PATHS["header"] = stumbles
        # A child that was killed by what it found is started again; it has nothing more to find.
        again = any((folder / "findings").iterdir())
        child.main("header", folder, int(sys.argv[3]), 1 if again else {_INPUTS})
    """
    return (sys.executable, "-c", textwrap.dedent(program))


@needs_atheris
@pytest.mark.parametrize(
    ("bug", "said"), [("raise ZeroDivisionError", "ZeroDivisionError"), ("os.abort()", "ends the process")]
)
def test_a_bug_is_found_and_its_input_kept(
    bug: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzzing, "write_seeds", one_seed)
    found = fuzzing.fuzz("header", tmp_path, _SECONDS, child=planted(bug))
    assert found, (tmp_path / "log").read_text("utf-8", "replace")
    seed = read_header((tmp_path / "corpus" / "seed").read_bytes()).keys()
    for file in found:
        assert read_header(file.read_bytes()).keys() - seed
    printed = capsys.readouterr().out
    assert said in printed
    assert f"--replay {next(iter(found))}" in printed


def one_seed(path: str, folder: Path) -> int:
    (folder / "seed").write_bytes(dicom(chest(64, 64)))
    return 1


def test_a_harness_that_fails_is_no_success(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="the harness itself failed"):
        fuzzing.fuzz("zip", tmp_path, _SECONDS, child=(sys.executable, "-c", "raise SystemExit(3)"))


def test_it_says_where_atheris_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["fuzz", "zip"])
    assert fuzzing.main() == 2
    assert "atheris is not installed" in capsys.readouterr().err


@pytest.mark.parametrize("path", PATHS)
def test_every_seed_gets_an_answer(path: str) -> None:
    answers = [walk(path, file) for file in seeds(path)]
    assert None in answers
    assert all(len(file) <= MOST for file in seeds(path))


def test_a_refusal_is_an_answer_and_a_broken_promise_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def asks_the_person(file: bytes) -> None:
        raise UsageError("change something")

    def breaks(file: bytes) -> None:
        raise KeyError

    monkeypatch.setitem(paths.PATHS, "zip", asks_the_person)
    monkeypatch.setitem(paths.PATHS, "header", asks_the_person)
    monkeypatch.setitem(paths.PATHS, "pixels", breaks)
    assert walk("zip", b"") is None
    with pytest.raises(paths.Broken):
        walk("header", b"")
    with pytest.raises(KeyError):
        walk("pixels", b"")


def test_a_finding_is_replayed(tmp_path: Path) -> None:
    saved = tmp_path / "bug"
    saved.write_bytes(dicom(chest(64, 64)))
    ended = started("-m", "tests.fuzz", "pixels", "report", "--replay", saved)
    assert (ended.returncode, ended.stdout) == (0, "pixels: passed\nreport: passed\n")


@pytest.mark.parametrize("syntax", [EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED])
def test_a_file_is_put_together_as_it_was_taken_apart(syntax: str) -> None:
    parts = parts_of(dicom(chest(64, 64), syntax))
    assert parts is not None
    assert len(parts.elements) >= 15
    assert parts_of(parts.encoded()) == parts
    assert walk("pixels", parts.encoded()) is None


def test_most_changes_get_past_the_layout() -> None:
    """Blind bytes do not; that is what the knowing changes are for."""
    read = 0
    for seed in range(300):
        file = changed("header", dicom(chest(64, 64)), seed)
        assert file == changed("header", dicom(chest(64, 64)), seed)
        assert file is not None
        try:
            read_header(file)
        except InstanceRejected:
            continue
        read += 1
    assert 150 < read < 300
    assert changed("header", b"no DICOM", 1) is None
    assert changed("zip", b"no zip", 1) is None
