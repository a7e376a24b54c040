"""How fast is the bare forward pass: ONNX Runtime against eager PyTorch, and against itself.

Run as ``python -m bench.bench_engine CACHE [ROUNDS]``. Every variant runs once in every round, so that what
else the machine does falls on all of them; the medians over the rounds are compared. Ratios carry over to
another machine, images per second don't.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from worker.model.onnx_engine import OnnxForward
from worker.model.torch_model import reference
from worker.model.weights import exported, locate

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Forward = Callable[[NDArray[np.float32]], object]

IMAGES = 32
BATCHES = (1, 4, 8, 16, 32)


def seconds(forward: Forward, batch: int, images: NDArray[np.float32]) -> float:
    start = time.perf_counter()
    for first in range(0, len(images), batch):
        forward(images[first : first + batch])
    return time.perf_counter() - start


def eager(model: torch.nn.Module, threads: int) -> Forward:
    def forward(images: NDArray[np.float32]) -> object:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            return model(torch.from_numpy(images))

    return forward


def main(cache: Path, rounds: int) -> None:
    weights = locate("seeded", "", cache, download=False)
    graph = exported(weights, cache).read_bytes()
    model = reference(weights)
    images = np.random.default_rng(0).uniform(-1024, 1024, (IMAGES, 1, 224, 224)).astype(np.float32)

    variants: dict[str, tuple[Forward, int]] = {}
    for threads in (1, 2):
        variants[f"PyTorch eager, {threads} thread(s), batch 1"] = (eager(model, threads), 1)
        session = OnnxForward(graph, threads=threads)
        for batch in BATCHES:
            variants[f"ONNX Runtime, {threads} thread(s), batch {batch}"] = (session, batch)

    for forward, batch in variants.values():  # the first call allocates and chooses kernels
        forward(images[:batch])
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, (forward, batch) in variants.items():
            times[name].append(seconds(forward, batch, images))

    for threads in (1, 2):
        base = statistics.median(times[f"PyTorch eager, {threads} thread(s), batch 1"])
        for name, taken in times.items():
            if f" {threads} thread(s)" in name:
                median = statistics.median(taken)
                print(f"{name:42} {IMAGES / median:6.1f} images/s  {base / median:5.2f} x eager")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 5)
