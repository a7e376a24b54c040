"""The reader's process: whatever happens to it costs one image at most, and that one has a reason."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from backlog.dicom.eligibility import Rules
from backlog.errors import ServiceUnavailable, UsageError
from backlog.outcomes import Flag, Outcome, Reason
from backlog.pacs.folder import FolderPacs
from backlog.settings import Settings
from tests.support.cases import listed, needs_data
from tests.support.dicom_images import chest, dicom
from tests.support.model_inputs import model_input
from tests.support.servers import ROOT, OrthancServer, free_port, wait_until
from worker.reader.client import Reader
from worker.reader.pool import Readers, how_many
from worker.reader.protocol import PreprocessedImage, RejectedImage
from worker.reader.spawn import COMMAND

pytestmark = pytest.mark.slow

#: The real reader, but decoding an image of such a patient goes wrong as a codec's bug would.
SABOTAGED = """
import ctypes, os, signal, sys, time
from pathlib import Path
import worker.pixels.preprocess, worker.reader.server
real = worker.pixels.preprocess.model_input

def sabotaged(file, side=0, **more):
    dicom = file.content
    once = Path({once!r})
    if b"KILLED ONCE" in dicom and not once.exists():
        once.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if b"KILLED ALWAYS" in dicom:
        os.kill(os.getpid(), signal.SIGKILL)
    if b"SEGFAULT" in dicom:
        ctypes.string_at(0)
    if b"EXITS" in dicom:
        os._exit(0)
    if b"MEETS" in dicom:
        once.with_name(f"met-{{os.getpid()}}").touch()
        while len(list(once.parent.glob("met-*"))) < 3: time.sleep(0.01)
    if b"HANGS" in dicom:
        once.with_name("hangs").touch()
        while True: pass
    if b"STALLED ALWAYS" in dicom or (b"STALLED ONCE" in dicom and not once.exists()):
        once.touch()
        time.sleep(60)
    if b"SWELLS" in dicom:
        held = bytearray(1 << 34)
    if b"RECURSES" in dicom:
        return sabotaged(file, side)
    if b"BUG" in dicom:
        raise RuntimeError("Doe^Jane 1970-01-01")
    if b"NOISE" in dicom:
        os.write(1, b"a codec's message")
        print("another")
        sys.stderr.write("more")
    return real(file, side, **more)

worker.pixels.preprocess.model_input = sabotaged
worker.reader.server.main()
"""


@pytest.fixture
def pacs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderPacs:
    """A folder PACS that the reader finds too."""
    monkeypatch.setenv("CXR_PACS_URL", str(tmp_path / "pacs"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return FolderPacs(tmp_path / "pacs")


def store(pacs: FolderPacs, *patients: str, side: int = 64) -> list[str]:
    """Store an image for each patient; what their readers shall see is different."""
    return [
        pacs.store(dicom(chest(side, side + i), PatientID=patient, SOPInstanceUID=f"1.2.3.{i}")).instance
        for i, patient in enumerate(patients)
    ]


@pytest.fixture
def reader(pacs: FolderPacs, tmp_path: Path) -> Iterator[Reader]:
    command = (sys.executable, "-c", SABOTAGED.format(once=str(tmp_path / "once")))
    made = Reader(Settings(decode_timeout_seconds=3.0), Rules(), command)
    yield made
    made.stop()


def outcomes(answers: list[PreprocessedImage | RejectedImage]) -> list[Reason | None]:
    return [answer.rejection.reason if isinstance(answer, RejectedImage) else None for answer in answers]


def test_a_hanging_reader_dies_with_its_parent(pacs: FolderPacs, tmp_path: Path) -> None:
    """Found: after the SIGKILL of an inference process its reader took a core for ever."""
    (instance,) = store(pacs, "HANGS")
    (tmp_path / "reader.py").write_text(SABOTAGED.format(once=str(tmp_path / "once")))
    asking = (
        "import sys; from backlog.dicom.eligibility import Rules; from backlog.environment import from_environment\n"
        "from worker.reader.client import Reader\n"
        f"reader = Reader(from_environment(), Rules(), [sys.executable, {str(tmp_path / 'reader.py')!r}])\n"
        f"list(reader.read([{instance!r}]))"
    )
    parent = psutil.Popen(
        [sys.executable, "-c", asking], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    try:
        wait_until((tmp_path / "hangs").exists, 60, "its reader hangs in the codec")
        (child,) = parent.children()
    finally:
        parent.kill()
        parent.wait(20)
    wait_until(
        lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, what="the reader is gone"
    )


def test_pictures_come_in_order_as_the_model_sees_them(pacs: FolderPacs) -> None:
    reader = Reader(Settings(), Rules())
    instances = store(pacs, *("TEST" * 6), side=64)
    answers = list(reader.read(instances))
    for instance, answer in zip(instances, answers, strict=True):
        assert isinstance(answer, PreprocessedImage)
        np.testing.assert_array_equal(answer.image, model_input(pacs.fetch(instance)).image)
        assert Flag.UPSAMPLED in answer.flags
        assert answer.study_instance_uid == "1.2.3.4"
    assert [answer.sop_instance_uid for answer in answers] == [f"1.2.3.{i}" for i in range(len(instances))]
    first = reader.process
    assert outcomes(list(reader.read(instances[:2]))) == [None, None]
    assert reader.process is first, "one process, kept"
    reader.stop()
    reader.stop()
    assert list(reader.read([])) == []


def test_the_reader_says_how_it_saw_pixels_that_are_not_square(pacs: FolderPacs) -> None:
    file = dicom(chest(240, 480), PixelAspectRatio=["2", "1"])
    stored = pacs.store(file).instance
    reader = Reader(Settings(), Rules())
    (answer,) = reader.read([stored], 128, display_side=200)
    reader.stop()
    seen = model_input(file, 128, display_side=200)
    assert isinstance(answer, PreprocessedImage)
    assert answer.square == seen.square
    assert (answer.square.side, answer.square.rows) == (480, 240)
    assert Flag.PIXEL_ASPECT_CORRECTED in answer.flags
    assert answer.shown is not None
    assert answer.shown.shape == (160, 160)
    assert answer.displayed is not None
    assert answer.displayed.shape == (240, 240)


def test_images_without_a_score_have_their_reason(pacs: FolderPacs) -> None:
    wanted: dict[Reason, dict[str, Any]] = {
        Reason.LATERAL: {"ViewPosition": "LL"},
        Reason.NOT_RADIOGRAPH: {"Modality": "CT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"},
        Reason.NOT_CHEST: {"BodyPartExamined": "KNEE"},
        Reason.MULTIFRAME: {"NumberOfFrames": 2},
    }
    instances = [
        pacs.store(dicom(chest(32, 32), SOPInstanceUID=f"1.2.{i}", **more)).instance
        for i, more in enumerate(wanted.values())
    ]
    blank = pacs.store(dicom(np.zeros((64, 64), np.uint16), SOPInstanceUID="1.2.9")).instance
    gone = "/".join(["0" * 40] * 2)
    reader = Reader(Settings(), Rules())
    answers = list(reader.read([*instances, blank, gone]))
    assert outcomes(answers) == [*wanted, Reason.BLANK, Reason.NOT_IN_PACS]
    assert isinstance(answers[0], RejectedImage)
    assert answers[0].sop_instance_uid == "1.2.0"
    assert isinstance(answers[-1], RejectedImage)
    assert answers[-1].sop_instance_uid == ""
    reader.stop()


def test_the_runs_rules_are_asked(pacs: FolderPacs) -> None:
    lateral = pacs.store(dicom(chest(64, 64), ViewPosition="LL")).instance
    reader = Reader(Settings(), Rules(laterals=True))
    (answer,) = reader.read([lateral])
    assert isinstance(answer, PreprocessedImage)
    assert Flag.LATERAL_ASKED_FOR in answer.flags
    reader.stop()
    reader = Reader(Settings(), Rules(modalities=frozenset({"CR"})))
    assert outcomes(list(reader.read([lateral]))) == [Reason.NOT_RADIOGRAPH]
    reader.stop()


@pytest.mark.parametrize("patient", ["KILLED ALWAYS", "SEGFAULT", "EXITS"])
def test_a_codec_that_crashes_costs_its_image_only(reader: Reader, pacs: FolderPacs, patient: str) -> None:
    instances = store(pacs, "A", patient, "B")
    assert outcomes(list(reader.read(instances))) == [None, Reason.DECODER_CRASHED, None]


def test_a_single_kill_costs_nothing(reader: Reader, pacs: FolderPacs) -> None:
    """The kernel's memory killer, or a user, may have meant another process."""
    instances = store(pacs, "A", "KILLED ONCE", "B")
    assert outcomes(list(reader.read(instances))) == [None, None, None]


def test_a_kill_between_two_chunks_costs_nothing(reader: Reader, pacs: FolderPacs) -> None:
    instances = store(pacs, "A", "B")
    assert outcomes(list(reader.read(instances))) == [None, None]
    assert reader.process is not None
    reader.process.kill()
    reader.process.wait()
    assert outcomes(list(reader.read(instances))) == [None, None]


@pytest.mark.timeout(60, func_only=True)
def test_a_codec_that_hangs_is_stopped_in_time(reader: Reader, pacs: FolderPacs) -> None:
    instances = store(pacs, "A", "HANGS", "B")
    answers = reader.read(instances)
    next(answers)
    assert isinstance(hung := next(answers), RejectedImage)
    assert hung.rejection.reason is Reason.DECODER_TIMEOUT
    assert "3 s" in hung.rejection.detail
    assert outcomes(list(answers)) == [None]


def test_a_machine_that_stalls_once_costs_no_image(reader: Reader, pacs: FolderPacs) -> None:
    """Swapping, or a container out of its share of CPU: the codec hasn't even worked."""
    instances = store(pacs, "STALLED ONCE", "fine", "STALLED ALWAYS", "fine")
    assert outcomes(list(reader.read(instances))) == [None, None, Reason.DECODER_TIMEOUT, None]


def test_rules_of_any_length_are_told_before_a_chunk(pacs: FolderPacs) -> None:
    """Each request once told them: the pipes filled from both sides, and nobody read."""
    words = frozenset(f"TORAX PA PORTATIL {i:05}" for i in range(5000))
    reader = Reader(Settings(decode_timeout_seconds=20, pacs_seconds=5), Rules(body_parts=words))
    instances = store(pacs, *["fine"] * 64)
    assert outcomes(list(reader.read(instances))) == [None] * 64
    reader.stop()


def test_a_codec_that_swells_meets_the_limit(reader: Reader, pacs: FolderPacs) -> None:
    instances = store(pacs, "A", "SWELLS", "B")
    assert outcomes(list(reader.read(instances))) == [None, Reason.OUT_OF_MEMORY, None]


def test_a_bug_costs_its_image_and_quotes_nothing(reader: Reader, pacs: FolderPacs) -> None:
    instances = store(pacs, "BUG", "RECURSES", "B")
    answers = list(reader.read(instances))
    assert outcomes(answers) == [Reason.INTERNAL_ERROR, Reason.INTERNAL_ERROR, None]
    assert isinstance(answers[0], RejectedImage)
    assert "Doe" not in answers[0].rejection.detail
    assert "RuntimeError" in answers[0].rejection.detail


def test_what_a_codec_prints_goes_nowhere(
    reader: Reader, pacs: FolderPacs, capfd: pytest.CaptureFixture[str]
) -> None:
    assert outcomes(list(reader.read(store(pacs, "NOISE", "B")))) == [None, None]
    assert capfd.readouterr() == ("", "")


def test_a_reader_left_in_the_middle_answers_the_next_question(reader: Reader, pacs: FolderPacs) -> None:
    """The one who asks may stop in the middle: the rest is never answered, the next question is."""
    instances = store(pacs, "A", "B", "C")
    answers = reader.read(instances)
    first = next(answers)
    answers.close()  # type: ignore[attr-defined]  # it is a generator
    again = list(reader.read(instances))
    assert isinstance(first, PreprocessedImage)
    assert isinstance(again[0], PreprocessedImage)
    np.testing.assert_array_equal(first.image, again[0].image)
    assert outcomes(again) == [None] * 3


def test_a_reader_that_cannot_start_blames_no_image(
    pacs: FolderPacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole backlog would be quarantined as crashing the decoder."""
    instances = store(pacs, "A")
    broken = Reader(Settings(), Rules(), (sys.executable, "-c", "raise SystemExit(1)"))
    with pytest.raises(ServiceUnavailable, match="doesn't start"):
        next(broken.read(instances))
    monkeypatch.setenv("CXR_DECODE_MEMORY_MB", "40")  # Python itself needs more
    starved = Reader(Settings(), Rules(), [*COMMAND])  # a copy of this process may have room left in its heap
    with pytest.raises(ServiceUnavailable, match="doesn't start"):
        next(starved.read(instances))
    monkeypatch.delenv("CXR_DECODE_MEMORY_MB")
    assert outcomes(list(starved.read(instances))) == [None]
    starved.stop()


def test_no_reader_is_left_behind(reader: Reader, pacs: FolderPacs) -> None:
    instances = store(pacs, "HANGS")
    list(reader.read(instances))
    assert reader.process is None
    list(reader.read(store(pacs, "A")))
    process = reader.process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)  # even where it doesn't listen
    reader.stop()
    assert process.poll() is not None


def test_an_answer_for_another_image_is_never_taken(pacs: FolderPacs) -> None:
    """Scores under another image's name would be worse than none: a bug here has to stop everything."""
    script = """
import worker.reader.server as process
serve = process.serve
def swapped(requests):
    rules, first, second = next(requests), next(requests), next(requests)
    yield rules
    yield second
    yield first
process.serve = lambda requests, answers, pacs: serve(swapped(requests), answers, pacs)
process.main()
"""
    instances = store(pacs, "A", "B")
    reader = Reader(Settings(), Rules(), (sys.executable, "-c", script))
    with pytest.raises(ServiceUnavailable, match="another image"):
        list(reader.read(instances))
    assert reader.process is None, "what it has still to say is not listened to"


# -- several readers -----------------------------------------------------------------------------------------


@pytest.fixture
def readers(pacs: FolderPacs, tmp_path: Path) -> Iterator[Readers]:
    command = (sys.executable, "-c", SABOTAGED.format(once=str(tmp_path / "once")))
    made = Readers(Settings(decode_timeout_seconds=3.0), Rules(), 3, command)
    yield made
    made.stop()


def uids(answers: list[PreprocessedImage | RejectedImage]) -> list[str]:
    return [answer.sop_instance_uid for answer in answers]


def test_readers_answer_in_order_and_a_death_costs_one_image(pacs: FolderPacs, readers: Readers) -> None:
    names = ["A", "B", "SEGFAULT", "A", "KILLED ONCE", "HANGS", "B", "A"]
    answers = list(readers.read(store(pacs, *names)))
    wanted = {"SEGFAULT": Reason.DECODER_CRASHED, "HANGS": Reason.DECODER_TIMEOUT}
    assert outcomes(answers) == [wanted.get(name) for name in names]
    assert uids(answers) == ["" if name in wanted else f"1.2.3.{i}" for i, name in enumerate(names)]
    assert outcomes(list(readers.read(store(pacs, "A")))) == [None], "fewer images than readers"
    assert list(readers.read([])) == []


def test_several_readers_read_at_the_same_time(pacs: FolderPacs, readers: Readers) -> None:
    """Each of these waits, while it is decoded, until all three are."""
    assert outcomes(list(readers.read(store(pacs, *["MEETS"] * 3)))) == [None] * 3


def test_readers_left_in_the_middle_answer_the_next_question(pacs: FolderPacs, readers: Readers) -> None:
    instances = store(pacs, *("A" * 9))
    answers = readers.read(instances)
    next(answers)
    answers.close()  # type: ignore[attr-defined]  # it is a generator
    assert uids(list(readers.read(instances[::-1]))) == [f"1.2.3.{i}" for i in range(9)][::-1]


def test_an_unavailable_pacs_is_told_by_several_readers_too(
    pacs: FolderPacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXR_PACS_URL", f"http://127.0.0.1:{free_port()}")
    readers = Readers(Settings(), Rules(), 2)
    for _ in range(2):
        with pytest.raises(ServiceUnavailable):
            next(readers.read(["-".join(["0123abcd"] * 5)] * 4))
    readers.stop()


@pytest.mark.parametrize(
    ("settings", "gpu", "count"),
    [
        (Settings(), False, 1),
        (Settings(readers=3), False, 3),
        (Settings(), True, min(16, len(os.sched_getaffinity(0)))),
        (Settings(engine="onnxruntime"), True, 1),
        (Settings(readers=5, engine="torch"), True, 5),
    ],
)
def test_a_gpu_has_a_reader_for_each_core(
    settings: Settings, gpu: bool, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.model.engine.GPU_DEVICES", (tmp_path,) if gpu else ())
    assert how_many(settings) == count


# -- a PACS that is unavailable -------------------------------------------------------------------------------------


@pytest.fixture
def at_orthanc(orthanc: OrthancServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Reader]]:
    """An image in an Orthanc, and a reader for it."""
    for name, value in orthanc.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CXR_PACS_URL", orthanc.url)
    instance = str(orthanc.post("/instances", dicom(chest(64, 64))).json()["ID"])
    reader = Reader(Settings(pacs_seconds=5), Rules())
    yield instance, reader
    reader.stop()


def test_a_pacs_that_goes_away_and_comes_back_costs_nothing(
    orthanc: OrthancServer, at_orthanc: tuple[str, Reader]
) -> None:
    instance, reader = at_orthanc
    assert outcomes(list(reader.read([instance]))) == [None]
    orthanc.stop()
    try:
        for _ in range(2):
            with pytest.raises(ServiceUnavailable, match="is unavailable"):
                next(reader.read([instance]))
    finally:
        orthanc.start()
    assert outcomes(list(reader.read([instance]))) == [None]


def test_a_wrong_password_is_the_users_to_fix(
    at_orthanc: tuple[str, Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    instance, reader = at_orthanc
    monkeypatch.setenv("CXR_PACS_PASSWORD", "wrong")
    with pytest.raises(UsageError, match="CXR_PACS_PASSWORD"):
        next(reader.read([instance]))


def test_a_closed_port_is_a_pacs_that_is_unavailable(
    pacs: FolderPacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXR_PACS_URL", f"http://127.0.0.1:{free_port()}")
    reader = Reader(Settings(), Rules())
    with pytest.raises(ServiceUnavailable):
        next(reader.read(["-".join(["0123abcd"] * 5)]))
    reader.stop()


def test_it_ends_with_the_one_who_asks(pacs: FolderPacs) -> None:
    """Its standard input ends when its worker is killed."""
    process = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.read(8)  # it has started
    process.stdin.close()
    wait_until(lambda: process.poll() is not None, 20)
    process.stdout.close()
    assert process.returncode == 0


# -- forked, as a worker does ------------------------------------------------------------------------------

_FORKS = """
import os, signal, subprocess, sys, tempfile
from backlog.dicom.eligibility import Rules
from backlog.settings import Settings
from worker.reader.client import Reader
from worker.reader.spawn import may_fork, preload

assert not may_fork(), "nothing is loaded yet"
preload()
assert may_fork()
sys.stdin.close()  # as in a process of Celery's pool
signal.signal(signal.SIGTERM, lambda *_: None)
held = tempfile.TemporaryFile()
reader = Reader(Settings(), Rules())
reader.start()
forked = reader.process
assert not isinstance(forked, subprocess.Popen), "it was forked"
files = {os.readlink(f"/proc/{forked.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{forked.pid}/fd")}
assert not any(name.startswith(tempfile.gettempdir()) for name in files), files
print(*[type(answer).__name__ for answer in reader.read(sys.argv[1:])])
assert reader.process is forked
os.kill(forked.pid, signal.SIGTERM)  # the handler is the worker's, not the reader's
assert forked.wait() == -signal.SIGTERM
forked.kill()
print(*[type(answer).__name__ for answer in reader.read(sys.argv[1:])])
os.kill(reader.process.pid, signal.SIGKILL)
import threading
threading.Thread(target=signal.pause, daemon=True).start()
print(*[type(answer).__name__ for answer in reader.read(sys.argv[1:])])
assert isinstance(reader.process, subprocess.Popen), "a process with threads is never forked"
pid = reader.process.pid
reader.stop()
assert not os.path.exists(f"/proc/{pid}")
"""


def test_it_is_forked_where_that_is_safe_and_spawned_elsewhere(pacs: FolderPacs) -> None:
    instances = store(pacs, "A", "B")
    done = subprocess.run(
        [sys.executable, "-c", _FORKS, *instances],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["PreprocessedImage"] * 6


# -- hostile files -------------------------------------------------------------------------------------------


@needs_data
@pytest.mark.timeout(120, func_only=True)
def test_every_hostile_file_ends_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put where the PACS's images are, past all that refuses them on the way in."""
    monkeypatch.setenv("CXR_PACS_URL", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / ("0" * 40)).mkdir()
    files = listed("hostile")
    instances = [f"{0:040}/{i:040}" for i in range(len(files))]
    for instance, file in zip(instances, files, strict=True):
        (tmp_path / f"{instance}.dcm").write_bytes(file.read())
    reader = Reader(Settings(), Rules())
    answers = list(reader.read(instances))
    reader.stop()
    ends = dict(zip((file.name for file in files), outcomes(answers), strict=True))
    for name, reason in ends.items():
        assert reason not in (Reason.INTERNAL_ERROR, Reason.DECODER_CRASHED, Reason.DECODER_TIMEOUT), name
        if name.startswith("pwn_"):  # all of them are CT, or nothing at all
            assert reason is not None, name
    assert ends["made_random_64k"] is Reason.NOT_DICOM
    assert ends["made_chest_j2k_garbage"] is Reason.UNDECODABLE
    assert ends["made_chest_pixels_empty"] in (Reason.NO_PIXELS, Reason.UNDECODABLE)
    assert ends["pydicom_MR_small_padded"] is Reason.NOT_RADIOGRAPH
    assert ends["pydicom_test-SR"] is Reason.NOT_IMAGE
    for name in ("made_chest_no_uids", "made_chest_uid_65_chars", "made_chest_uid_path_traversal"):
        assert ends[name] is Reason.INVALID_UID
    assert Reason.INVALID_UID.outcome is Outcome.QUARANTINED
