"""How fast is the bare forward pass: the graph from arrays against PyTorch's export and against eager PyTorch.

Also what the class activation maps cost: the graph against the same without them.

Run as ``python -m bench.bench_engine CACHE [ROUNDS]``. Every variant runs once in every round, so that what
else the machine does falls on all of them; the medians of the ratios within a round are given. Ratios carry over to
another machine, images per second don't.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch

from backlog.model import INPUT_SIDE
from bench.figures import Figure
from bench.reference.torch_export import exported_by_torch
from worker.model.network import build_graph
from worker.model.onnx_engine import OnnxForward
from worker.model.torch_model import Scorer, network
from worker.model.weights import locate

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Forward = Callable[[NDArray[np.float32]], object]

IMAGES = 32
BATCHES = (1, 8, 32)


def seconds(forward: Forward, batch: int, images: NDArray[np.float32]) -> float:
    start = time.perf_counter()
    for first in range(0, len(images), batch):
        forward(images[first : first + batch])
    return time.perf_counter() - start


def without_maps(graph: bytes) -> bytes:
    """Take the class activation maps out of a graph: what they cost is the difference."""
    model = onnx.load_from_string(graph)
    for part in (model.graph.node, model.graph.output):
        (maps,) = [one for one in part if one.name == "maps"]
        part.remove(maps)
    return bytes(model.SerializeToString())


def cost_of_maps(graph: bytes, images: NDArray[np.float32], rounds: int) -> float:
    """Return by what part the maps lengthen a forward pass of one image: a median of paired ratios of CPU time."""
    plain, whole = OnnxForward(without_maps(graph), threads=1), OnnxForward(graph, threads=1)
    ways: tuple[Forward, Forward] = (plain, whole.evaluate)
    ratios = []
    for index in range(rounds):
        taken = [0.0, 0.0]
        for way in (0, 1) if index % 2 else (1, 0):
            begun = time.process_time()
            for first in range(len(images)):
                ways[way](images[first : first + 1])
            taken[way] = time.process_time() - begun
        ratios.append(taken[1] / taken[0])
    return statistics.median(ratios[1:]) - 1  # the first call allocates and chooses kernels


def eager(model: torch.nn.Module, threads: int) -> Forward:
    def forward(images: NDArray[np.float32]) -> object:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            return model(torch.from_numpy(images))

    return forward


def main(cache: Path, rounds: int) -> list[Figure]:
    """Print the table and return its figures."""
    weights = locate("seeded", "", cache, download=False)
    graph, exported = build_graph(weights), exported_by_torch(weights)
    model = Scorer(network(weights), weights.model.points).eval()
    images = (
        np.random.default_rng(0).uniform(-1024, 1024, (IMAGES, 1, INPUT_SIDE, INPUT_SIDE)).astype(np.float32)
    )

    variants: dict[str, tuple[Forward, int]] = {}
    for threads in (1, 2):
        variants[f"PyTorch's export, {threads} thread(s), batch 1"] = (
            OnnxForward(exported, threads=threads),
            1,
        )
        variants[f"PyTorch eager, {threads} thread(s), batch 1"] = (eager(model, threads), 1)
        session = OnnxForward(graph, threads=threads)
        for batch in BATCHES:
            variants[f"graph from arrays, {threads} thread(s), batch {batch}"] = (session, batch)

    for forward, batch in variants.values():  # the first call allocates and chooses kernels
        forward(images[:batch])
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, (forward, batch) in variants.items():
            times[name].append(seconds(forward, batch, images))

    found = []
    for threads in (1, 2):
        base = times[f"PyTorch's export, {threads} thread(s), batch 1"]
        for name, taken in times.items():
            if f" {threads} thread(s)" in name:
                ratio = statistics.median(before / now for before, now in zip(base, taken, strict=True))
                rate = IMAGES / statistics.median(taken)
                found.append(Figure("engine", name, rate, "images/s", ratio, "× PyTorch's export"))
                print(f"{name:42} {rate:6.1f} images/s  {ratio:5.2f} x PyTorch's export")
    cost = cost_of_maps(graph, images, 4 * rounds + 1)
    print(f"class activation maps: {cost:+.2%} of a forward pass")
    found.append(
        Figure("engine", "class activation maps", 100 * cost, "%", 1 + cost, "× a forward pass without")
    )
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 5)
