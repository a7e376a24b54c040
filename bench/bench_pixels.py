"""Bytes → model input: its time against the reference's and against the bare codecs'.

Interleaved rounds after a warm-up, medians, ratios. Run ``python -m bench.bench_pixels``.
"""

from __future__ import annotations

import io
import statistics
import time
import warnings
from collections.abc import Callable, Iterator

import numpy as np

from backlog.dicom.file import DicomFile
from backlog.model import INPUT_SIDE
from bench.figures import Figure
from tests.support.dicom_images import (
    JPEG_2000_LOSSLESS,
    JPEG_LOSSLESS_SV1,
    JPEG_LS,
    RLE,
    chest,
    dicom,
    jpeg_2000,
    jpeg_ls,
    recoded,
    rle,
)
from worker.pixels.attributes import declared
from worker.pixels.decode import decode
from worker.pixels.preprocess import model_input

ROWS, COLUMNS, BITS = 2500, 2048, 12
ROUNDS = 7


def files() -> Iterator[tuple[str, bytes]]:
    """Yield the same noisy 12-bit image in each transfer syntax."""
    noise = np.random.default_rng(0).normal(0, 12, (ROWS, COLUMNS))
    words = np.clip(chest(ROWS, COLUMNS, BITS) + noise, 0, (1 << BITS) - 1).astype(np.uint16)
    native = dicom(words)
    yield "native", native
    yield "RLE", dicom(words, RLE, stream=rle(words))
    yield "JPEG-LS", dicom(words, JPEG_LS, stream=jpeg_ls(words, BITS))
    yield "JPEG lossless", recoded(native, JPEG_LOSSLESS_SV1)
    yield "JPEG 2000", dicom(words, JPEG_2000_LOSSLESS, stream=jpeg_2000(words, BITS))


def codec_only(file: bytes) -> Callable[[], object]:
    """Return the bare decoding of a file's pixels."""
    read = DicomFile(file)
    promise = declared(read.header)
    return lambda: decode(read.parsed, promise)


def reference(file: bytes) -> Callable[[], object]:
    """Return the reference's path from bytes to model input."""
    import torchxrayvision as xrv

    crop, resize = xrv.datasets.XRayCenterCrop(), xrv.datasets.XRayResizer(INPUT_SIDE)
    return lambda: resize(crop(xrv.utils.read_xray_dcm(io.BytesIO(file))[None]))


def medians(runs: list[Callable[[], object]]) -> list[float]:
    """Return each one's median time in seconds."""
    times: list[list[float]] = [[] for _ in runs]
    for round_number in range(ROUNDS + 1):
        for run, seen in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            if round_number:
                seen.append(time.perf_counter() - start)
    return [statistics.median(seen) for seen in times]


def rows(*, with_reference: bool = True) -> list[tuple[str, float, str, float]]:
    """Return (what, milliseconds, of what, ratio) of every transfer syntax."""
    found = []
    for name, file in files():
        runs: list[Callable[[], object]] = [lambda file=file: model_input(DicomFile(file)), codec_only(file)]  # type: ignore[misc]
        if with_reference:
            runs.append(reference(file))
        ours, codec, *other = medians(runs)
        if name != "native":
            found.append((name, ours * 1e3, "times the bare codec", ours / codec))
        if other:
            found.append((name, ours * 1e3, "of the reference's time", ours / other[0]))
    return found


def main() -> list[Figure]:
    """Print the table and return its figures."""
    warnings.simplefilter("ignore")
    print(f"{ROWS} x {COLUMNS}, {BITS} bit, bytes to model input")
    found = rows()
    for name, milliseconds, of_what, ratio in found:
        print(f"{name:14} {milliseconds:8.1f} ms {ratio:8.3f} {of_what}")
    return [
        Figure("pixels", f"{name}, {of_what}", milliseconds, "ms", ratio, of_what)
        for name, milliseconds, of_what, ratio in found
    ]


if __name__ == "__main__":
    main()
