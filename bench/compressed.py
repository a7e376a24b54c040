"""Whole runs over compressed radiographs, beside native ones and beside what the bare codec allows.

A folder of images of one transfer syntax goes through a real run; what bounds it is then the codec's time, which all
cores share: ``cores ÷ (CPU of the native run's image + CPU of the codec)`` images a second. Run
``python -m bench.compressed [IMAGES] [ROUNDS]``.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.uid import generate_uid

from backlog.dicom.file import DicomFile
from bench.end_to_end import COLUMNS, ROWS, fresh_orthanc, system
from bench.figures import Figure
from tests.support.dicom_images import (
    JPEG_2000,
    JPEG_2000_LOSSLESS,
    JPEG_BASELINE,
    JPEG_LOSSLESS_SV1,
    JPEG_LS,
    RLE,
    chest,
    dicom,
    jpeg_2000,
    jpeg_baseline,
    jpeg_ls,
    recoded,
    rle,
)
from worker.pixels.attributes import declared
from worker.pixels.decode import decode

_BITS: Final = 12
_LOSSY_RATIO: Final = 10
_NATIVE: Final = "native"


def _words(bits: int) -> NDArray[np.uint16]:
    """Return a radiograph with a detector's noise, which is what a codec has to work on."""
    noise = np.random.default_rng(0).normal(0, 12 if bits > 8 else 1, (ROWS, COLUMNS))
    return np.clip(chest(ROWS, COLUMNS, bits) + noise, 0, (1 << bits) - 1).astype(np.uint16)


def _files() -> dict[str, Callable[[], bytes]]:
    """Return how one image is written in each transfer syntax."""
    words = _words(_BITS)
    eight = _words(8).astype(np.uint8)
    return {
        _NATIVE: lambda: dicom(words),
        "RLE": lambda: dicom(words, RLE, stream=rle(words)),
        "JPEG baseline, 8 bit": lambda: dicom(eight, JPEG_BASELINE, stream=jpeg_baseline(eight)),
        "JPEG-LS": lambda: dicom(words, JPEG_LS, stream=jpeg_ls(words, _BITS)),
        "JPEG lossless": lambda: recoded(dicom(words), JPEG_LOSSLESS_SV1),
        "JPEG 2000 lossless": lambda: dicom(words, JPEG_2000_LOSSLESS, stream=jpeg_2000(words, _BITS)),
        "JPEG 2000 lossy, 10 : 1": lambda: dicom(
            words, JPEG_2000, stream=jpeg_2000(words, _BITS, _LOSSY_RATIO)
        ),
    }


def _write(folder: Path, file: bytes, count: int) -> None:
    """Write an image so many times, each as a study and a patient of its own."""
    folder.mkdir()
    header = pydicom.dcmread(io.BytesIO(file))
    for number in range(count):
        header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        header.StudyInstanceUID, header.SeriesInstanceUID = generate_uid(), generate_uid()
        header.PatientID = f"BENCH{number}"
        header.save_as(folder / f"{number:05}.dcm")


def _codec_seconds(pool: ProcessPoolExecutor, file: bytes) -> float:
    """Return the CPU time of the bare codec for one image while every core decodes, as in a whole run."""
    cores = len(os.sched_getaffinity(0))
    return statistics.median(taken.result() for taken in [pool.submit(_decode, file) for _ in range(cores)])


def _decode(file: bytes, rounds: int = 5) -> float:
    """Return the CPU time of one image in this process; the first round warms up."""
    read = DicomFile(file)
    promise = declared(read.header)
    seen = []
    for _ in range(rounds + 1):
        start = time.process_time()
        decode(read.parsed, promise)
        seen.append(time.process_time() - start)
    return statistics.median(seen[1:])


def measure(count: int = 48, rounds: int = 3) -> list[Figure]:
    """Run over each transfer syntax in turn; print the table and return its figures.

    Parameters
    ----------
    count
        Images a run.
    rounds
        In each of which every transfer syntax has its turn; one more warms up.
    """
    files = {name: write() for name, write in _files().items()}
    cores = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(cores, multiprocessing.get_context("spawn")) as pool:
        codec = {name: _codec_seconds(pool, file) if name != _NATIVE else 0.0 for name, file in files.items()}
    rates: dict[str, list[float]] = {name: [] for name in files}
    for turn in range(-1, rounds):
        for name, file in files.items():
            if turn < 0 and name != _NATIVE:
                continue
            with (
                TemporaryDirectory(prefix="cxr-bench-") as place,
                fresh_orthanc(Path(place) / "orthanc") as orthanc,
            ):
                _write(Path(place) / "images", file, count)
                rate = system([str(Path(place) / "images")], orthanc)
            if turn >= 0:
                rates[name].append(rate)
    native = statistics.median(rates[_NATIVE])
    print(
        f"{COLUMNS} x {ROWS}, {count} images a run, {rounds} rounds, {cores} cores; from a folder, over REST"
    )
    print(
        f"{'':<26}{'codec, ms':>10}{'images/s':>10}  {'spread':<16}{'x native':>9}{'of what the codec allows':>26}"
    )
    found = []
    for name, seen in rates.items():
        rate = statistics.median(seen)
        allowed = cores / (cores / native + codec[name])
        spread = f"{min(seen):.2f} to {max(seen):.2f}"
        columns = f"{name:<26}{1e3 * codec[name]:>10.0f}{rate:>10.2f}  {spread:<16}"
        print(f"{columns}{rate / native:>9.2f}{rate / allowed:>26.2f}", flush=True)
        if name != _NATIVE:
            found.append(
                Figure(
                    "compressed, whole runs",
                    name,
                    rate,
                    "images/s",
                    rate / allowed,
                    "of what the codec allows",
                )
            )
    return found


if __name__ == "__main__":
    measure(*(int(word) for word in sys.argv[1:]))
