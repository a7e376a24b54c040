"""Every file that a command writes for its user: what is replaced, and what never is."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from backlog.errors import StorageFull, UsageError
from backlog.output_file import OutputFile, begins_with, unwritable

OWN = begins_with(b"ours")


def write(path: Path, *inputs: Path, force: bool = False, content: bytes = b"ours, new") -> None:
    output = OutputFile(path, inputs=inputs, force=force)
    output.check(OWN)
    with output.open(OWN) as file:
        file.write(content)


def test_a_new_file_has_the_mode_of_new_files(tmp_path: Path) -> None:
    write(tmp_path / "x")
    (tmp_path / "y").touch()
    assert (tmp_path / "x").read_bytes() == b"ours, new"
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "y").stat().st_mode
    assert len(list(tmp_path.iterdir())) == 2, "something was left behind"


@pytest.mark.parametrize("before", [b"ours, old", b""])
def test_an_earlier_output_is_replaced_and_keeps_its_mode(tmp_path: Path, before: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(before)
    path.chmod(0o640)
    write(path)
    assert path.read_bytes() == b"ours, new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_another_file_is_replaced_only_with_force(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"somebody's thesis")
    with pytest.raises(UsageError, match="--force"):
        write(path)
    assert path.read_bytes() == b"somebody's thesis"
    write(path, force=True)
    assert path.read_bytes() == b"ours, new"


def test_a_link_is_followed_and_stays_a_link(tmp_path: Path) -> None:
    target = tmp_path / "there" / "x"
    target.parent.mkdir()
    for before in (b"ours, old", None):
        if before is None:
            target.unlink()  # the link leads to a file that is to be made
        else:
            target.write_bytes(before)
            (tmp_path / "link").symlink_to(target)
        write(tmp_path / "link")
        assert (tmp_path / "link").is_symlink()
        assert target.read_bytes() == b"ours, new"
    target.write_bytes(b"another's")
    with pytest.raises(UsageError, match="did not write it"):
        write(tmp_path / "link")


def through_link(source: Path, folder: Path) -> Path:
    (folder / "link").symlink_to(source)
    return folder / "link"


def through_hard_link(source: Path, folder: Path) -> Path:
    os.link(source, folder / "hard")
    return folder / "hard"


def through_dots(source: Path, folder: Path) -> Path:
    return folder / ".." / folder.name / source.name


@pytest.mark.parametrize("name", [lambda source, _: source, through_link, through_hard_link, through_dots])
@pytest.mark.parametrize("content", [b"an input", b"ours, but an input"])
def test_an_input_is_never_replaced(
    tmp_path: Path, name: Callable[[Path, Path], Path], content: bytes
) -> None:
    source = tmp_path / "input"
    source.write_bytes(content)
    path = name(source, tmp_path)
    for force in (False, True):
        with pytest.raises(UsageError, match="is an input"):
            write(path, source, force=force)
    assert source.read_bytes() == content


def test_what_lies_in_an_input_folder_is_never_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    (folder / "deep").mkdir(parents=True)
    image = folder / "deep" / "a.dcm"
    image.write_bytes(b"an image")
    (tmp_path / "link").symlink_to(folder)
    for path in (image, tmp_path / "link" / "deep" / "a.dcm"):
        with pytest.raises(UsageError, match="lies in one"):
            write(path, folder, force=True)
    write(folder / "deep" / "new", folder)
    write(folder / "deep" / "new", folder, content=b"ours, again")
    assert image.read_bytes() == b"an image"
    assert (folder / "deep" / "new").read_bytes() == b"ours, again"


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    for force in (False, True):
        with pytest.raises(UsageError, match="this is a folder"):
            write(tmp_path, force=force)


def test_a_device_is_written_to_and_stays_one(tmp_path: Path) -> None:
    write(Path("/dev/null"))
    (tmp_path / "null").symlink_to("/dev/null")
    write(tmp_path / "null", force=True)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert (tmp_path / "null").is_symlink()


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    write(pipe)
    reader.join(timeout=30)
    assert got == [b"ours, new"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_dash_is_standard_output(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with OutputFile(Path("-")).open_text(OWN) as file:
        file.write("ä\r\n")
    assert capfdbinary.readouterr().out == "ä\r\n".encode()
    assert not list(tmp_path.iterdir())


def test_an_open_file_is_written_to_and_never_replaced(tmp_path: Path) -> None:
    """``/dev/stdout`` behind a pipe, ``>(gzip > x)`` of a shell, ``>> x``: the place in the file is the shell's."""
    reading, writing = os.pipe()
    (tmp_path / "link").symlink_to(f"/dev/fd/{writing}")
    (tmp_path / "link to link").symlink_to(tmp_path / "link")
    for path in (Path(f"/dev/fd/{writing}"), Path(f"/proc/self/fd/{writing}"), tmp_path / "link to link"):
        write(path)
        assert os.read(reading, 100) == b"ours, new"
    os.close(reading)
    os.close(writing)
    with pytest.raises(StorageFull, match="Bad file descriptor"):
        write(Path(f"/dev/fd/{writing}"))

    log = tmp_path / "log"
    log.write_bytes(b"before\n")
    with log.open("ab", buffering=0) as appended:
        write(Path(f"/dev/fd/{appended.fileno()}"))
        appended.write(b"\nafter")
        with pytest.raises(UsageError, match="is an input"):
            write(Path(f"/dev/fd/{appended.fileno()}"), log, force=True)
    assert log.read_bytes() == b"before\nours, new\nafter"


@pytest.mark.parametrize("path", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_has_several_names(path: str) -> None:
    assert OutputFile(Path(path)).is_stdout
    assert not OutputFile(Path("/dev/stderr")).is_stdout
    assert not OutputFile(Path("/dev/null")).is_stdout


def test_an_error_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"ours, old")

    def fail() -> None:
        with OutputFile(path).open(OWN) as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_bytes() == b"ours, old"
    assert [one.name for one in tmp_path.iterdir()] == ["x"]


def test_a_place_that_its_user_has_to_change_is_named(tmp_path: Path) -> None:
    """It is no matter of waiting, as a full disk is."""
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to("circle")
    for path in (
        *(tmp_path / "no" / "x", tmp_path / "file" / "x", tmp_path / "circle", tmp_path / ("n" * 300)),
        Path("/sys/x"),
    ):
        with pytest.raises(UsageError, match="can't be written"):
            write(path)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        *((number, UsageError) for number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT)),
        *((number, StorageFull) for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE)),
    ],
)
def test_what_waiting_helps_with_is_told_apart(number: int, kind: type[Exception]) -> None:
    assert unwritable(OSError(number, "")) is kind


def test_a_full_device_is_named() -> None:
    with pytest.raises(StorageFull, match="No space left"):
        write(Path("/dev/full"))
