"""Pixels compared in a process of its own: it may die, take too long or lack a decoder."""

from __future__ import annotations

import os
import signal
import struct
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from backlog.dicom.file import DicomFile
from backlog.errors import InstanceRejected, UsageError
from backlog.outcomes import Reason
from backlog.settings import Settings
from tests.support import dicom_images as made
from tests.support.cases import case
from tests.support.dicom_images import JPEG_LS, chest, dicom, explicit_element, with_elements
from worker.pixels.attributes import declared
from worker.pixels.decode import decode
from worker.pixels.preprocess import model_input
from worker.reader import same_pixels
from worker.reader.same_pixels import PixelComparison

WORDS = chest(64, 64)
NATIVE = dicom(WORDS)


def jpeg_ls(words: NDArray[Any]) -> bytes:
    from jpeg_ls import encode_array  # type: ignore[import-untyped]  # it ships no types

    stream = bytes(encode_array(words))
    return dicom(words, JPEG_LS, stream=stream + b"\0" * (len(stream) % 2))


@pytest.fixture
def comparison() -> Iterator[PixelComparison]:
    made = PixelComparison(Settings(decode_timeout_seconds=1))
    yield made
    made.close()


def reason_of(comparison: PixelComparison, ours: bytes, held: bytes) -> Reason:
    with pytest.raises(InstanceRejected) as error:
        comparison.same(ours, held)
    return error.value.reason


def test_decoded_pixels_are_compared(comparison: PixelComparison) -> None:
    assert comparison.same(NATIVE, jpeg_ls(WORDS))
    assert not comparison.same(NATIVE, jpeg_ls(WORDS[::-1].copy()))
    assert not comparison.same(NATIVE, jpeg_ls(WORDS ^ 1))


def encoded(words: NDArray[Any], bits: int, **attributes: Any) -> bytes:
    """As an encoder makes it that keeps so many bits of each word."""
    stream = made.jpeg_ls(words & ((1 << bits) - 1), bits)
    return dicom(words, JPEG_LS, stream=stream + b"\0" * (len(stream) % 2), **attributes)


def test_an_encoder_that_drops_bits_of_pixels_is_noticed(comparison: PixelComparison) -> None:
    """DCMTK keeps Bits Stored of each word; what is deeper than its header says wraps around."""
    deep = 2 * WORDS
    assert not comparison.same(dicom(deep), encoded(deep, 12))
    assert comparison.same(dicom(deep), encoded(deep, 13))
    assert comparison.same(dicom(deep), encoded(deep, 16))


def test_copies_of_the_sign_carry_nothing(comparison: PixelComparison) -> None:
    words = (WORDS.astype(np.int16) - 2048).view(np.uint16)
    assert comparison.same(dicom(words, PixelRepresentation=1), encoded(words, 12, PixelRepresentation=1))


def test_an_overlay_in_high_bits_carries_no_pixel(comparison: PixelComparison) -> None:
    drawn = WORDS.copy()
    drawn[20:40, 20:40] |= 0x8000
    ours, held = dicom(drawn), encoded(drawn, 12)
    assert not comparison.same(ours, held)
    assert comparison.same(*(declaring_overlay(file, 15) for file in (ours, held)))


def declaring_overlay(file: bytes, position: int) -> bytes:
    elements = b"".join(
        explicit_element(tag, vr.encode(), struct.pack("<H", value))
        for tag, (vr, value) in made.overlay(position).items()
    )
    return with_elements(file, elements, struct.pack("<HH", 0x7FE0, 0x0010))


def test_equal_words_of_another_depth_are_another_image(comparison: PixelComparison) -> None:
    """The model would be given the same image at half its brightness."""
    assert not comparison.same(NATIVE, encoded(WORDS, 13))


@pytest.mark.parametrize("bits", [12, 13])
def test_one_image_to_the_comparison_is_one_to_the_model(bits: int) -> None:
    file = DicomFile(case("exceed2x_mono2_12b_explicit"))
    words = decode(file.parsed, declared(file.header)).words
    ours, held = dicom(words), encoded(words, bits)
    one, other = (model_input(DicomFile(image)).image for image in (ours, held))
    assert same_pixels.answer(ours, held) == {"same": np.array_equal(one, other)}
    assert np.array_equal(one, other) is (bits == 13)


def test_what_the_inference_stage_will_reject_is_left_to_it(comparison: PixelComparison) -> None:
    assert comparison.same(NATIVE, dicom(WORDS, JPEG_LS, stream=b"no image" * 100))
    broken = dicom(WORDS, JPEG_LS, stream=b"no image" * 100)
    assert reason_of(comparison, broken, NATIVE) is Reason.UNDECODABLE


def test_a_process_that_is_killed_costs_no_image(comparison: PixelComparison) -> None:
    assert comparison.same(NATIVE, jpeg_ls(WORDS))
    assert comparison.process is not None
    os.kill(comparison.process.pid, signal.SIGSTOP)  # it ends only after it is asked
    threading.Timer(0.5, os.kill, (comparison.process.pid, signal.SIGKILL)).start()
    assert comparison.same(NATIVE, jpeg_ls(WORDS))


def test_decoders_that_are_loaded_slowly_cost_no_image(comparison: PixelComparison, tmp_path: Path) -> None:
    """A busy machine took more than the image's time for that alone."""
    comparison.command = doctored(
        tmp_path,
        """
        import importlib.abc
        class Slow(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path, target=None):
                if name == "numpy":
                    time.sleep(2.5)
        sys.meta_path.insert(0, Slow())
        """,
    )
    assert comparison.same(NATIVE, jpeg_ls(WORDS))
    assert starts(tmp_path) == 1


#: By its computing alone: beside others it may not get the cores before the clock ends it.
_COMPUTES = "import signal; signal.setitimer(signal.ITIMER_REAL, 0); any(iter(int, 1))"


@pytest.mark.parametrize(
    ("when", "what", "reason", "asked"),
    [
        ("at first", "time.sleep(60)", None, 2),
        ("always", "time.sleep(60)", Reason.DECODER_TIMEOUT, 2),
        ("always", _COMPUTES, Reason.DECODER_TIMEOUT, 1),
        ("at first", "os._exit(3)", None, 2),
        ("always", "os._exit(3)", Reason.DECODER_CRASHED, 2),
    ],
)
def test_one_death_at_an_image_is_not_its_fault(
    comparison: PixelComparison, tmp_path: Path, when: str, what: str, reason: Reason | None, asked: int
) -> None:
    """Its machine may swap, or the kernel want memory; what computes for too long is to blame at once."""
    first = "" if when == "always" else "if len(list(folder.iterdir())) == 1: "
    comparison.command = doctored(
        tmp_path,
        f"""
        import worker.pixels.decode
        decode = worker.pixels.decode.decode
        def doctored(*arguments):
            {first}{what}
            return decode(*arguments)
        worker.pixels.decode.decode = doctored
        """,
    )
    if reason is None:
        assert comparison.same(NATIVE, jpeg_ls(WORDS))
    else:
        assert reason_of(comparison, NATIVE, jpeg_ls(WORDS)) is reason
    assert starts(tmp_path) == asked


def doctored(folder: Path, lines: str) -> tuple[str, ...]:
    """The comparison's program with other lines before it; each start of it leaves a file in the folder."""
    code = (
        f"import os, pathlib, sys, time\nfolder = pathlib.Path({str(folder)!r})\n"
        f"(folder / str(os.getpid())).touch()\n{textwrap.dedent(lines)}\n"
        "sys.argv = ['', '1', '2048']\nfrom worker.reader.same_pixels import main\nmain()"
    )
    return sys.executable, "-c", code


def starts(folder: Path) -> int:
    return len(list(folder.iterdir()))


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import signal, time; signal.alarm(1); time.sleep(60)", Reason.DECODER_TIMEOUT),
        ("import os; os._exit(3)", Reason.DECODER_CRASHED),
        ("print('half a line', end='')", Reason.DECODER_CRASHED),
    ],
)
def test_how_the_process_ends_is_told(comparison: PixelComparison, code: str, reason: Reason) -> None:
    comparison.command = (sys.executable, "-c", code)
    assert reason_of(comparison, NATIVE, NATIVE) is reason


def test_a_machine_without_decoders_is_the_users_to_fix(comparison: PixelComparison, tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise ModuleNotFoundError('no numpy', name='numpy')")
    run = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.argv = ['x', '1', '2048'];"
    comparison.command = (sys.executable, "-c", f"{run} from worker.reader.same_pixels import main; main()")
    with pytest.raises(UsageError, match=r"numpy.*cxr-backlog\[codecs\]"):
        comparison.same(NATIVE, NATIVE)


def test_an_image_beyond_the_memory_limit_is_rejected() -> None:
    large = dicom(chest(3000, 3000))
    assert same_pixels.answer(large, large) == {"same": True}
    comparison = PixelComparison(Settings(decode_memory_mb=32))
    assert reason_of(comparison, large, large) in (Reason.DECODER_CRASHED, Reason.OUT_OF_MEMORY)
    comparison.close()
