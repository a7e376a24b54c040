"""Files that are the user's own, whole or not at all, and never written through a link."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from backlog.errors import UsageError
from backlog.files import PrivateFolder, named_when_whole, open_without_link, private_files, remove, replacing
from tests.support.servers import ROOT, wait_until


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_new_files_are_the_users_own(tmp_path: Path) -> None:
    with private_files():
        (tmp_path / "folder").mkdir()
        (tmp_path / "file").touch()
    assert (mode(tmp_path / "folder"), mode(tmp_path / "file")) == (0o700, 0o600)


def test_a_link_is_refused_and_its_target_left_alone(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("precious")
    link.symlink_to(target)
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        open_without_link(link, os.O_RDWR | os.O_TRUNC)
    assert target.read_text() == "precious"


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path, 0o600) as file:
        file.write(b"new")
        1 / 0  # noqa: B018
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"
    with replacing(path, 0o640) as file:
        file.write(b"new")
    assert (path.read_text(), mode(path)) == ("new", 0o640)


def test_a_new_file_gets_its_name_whole_and_once(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(ZeroDivisionError), named_when_whole(path) as temporary:
        temporary.write_text("half")
        1 / 0  # noqa: B018
    assert list(tmp_path.iterdir()) == []
    for text in ("first", "second"):
        try:
            with named_when_whole(path) as temporary:
                temporary.write_text(text)
                assert path.exists() == (text == "second")
        except FileExistsError:
            assert text == "second"
    assert (path.read_text(), list(tmp_path.iterdir())) == ("first", [path])


def test_a_killed_processs_folder_is_removed_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = (
        "import time; from backlog.files import PrivateFolder\n"
        "folder = PrivateFolder(); (folder.path / 'x').touch(); time.sleep(60)"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)},
    )
    wait_until(lambda: list(tmp_path.glob("cxr-*/x")), what="its folder is there")
    (tmp_path / "cxr-foreign").mkdir()  # without our lock: not ours
    with PrivateFolder() as mine:
        assert len(list(tmp_path.glob("cxr-*/x"))) == 1  # at work: left alone
    running.send_signal(signal.SIGKILL)
    running.wait(20)
    with PrivateFolder() as mine:
        assert {one.name for one in tmp_path.iterdir()} == {"cxr-foreign", mine.name}
    assert [one.name for one in tmp_path.iterdir()] == ["cxr-foreign"]


def test_a_folder_that_is_just_being_made_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    lock = fcntl.flock
    others: list[str] = []

    def starts_another(handle: int, operation: int) -> None:
        if operation == fcntl.LOCK_EX and not others:
            others.append("begun")
            with PrivateFolder():
                pass
        lock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", starts_another)
    with PrivateFolder() as mine:
        assert others
        assert [one.name for one in tmp_path.iterdir()] == [mine.name]
        (mine / "x").touch()
        with PrivateFolder():
            assert (mine / "x").exists()
    assert not list(tmp_path.iterdir())


def test_what_is_not_there_is_removed_also_where_nothing_can_be(tmp_path: Path) -> None:
    """As of a run's folder that is mounted read-only: the kernel refuses before it looks."""
    (tmp_path / "pause").touch()
    remove(tmp_path / "pause", tmp_path / "cancel", Path("/proc/cancel"))
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="can't be written"):
        remove(Path("/proc/version"))
