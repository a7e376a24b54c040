"""Images in, scores out: ONNX Runtime on a CPU, PyTorch on a GPU.

::

    Weights ──build_graph──▶ OnnxForward (CPU) ─┐
            └───network────▶ TorchForward (GPU) ┴─▶ Engine: checks, batches, NaN for a broken image

A CPU worker needs NumPy and ONNX Runtime alone. Whether there is a GPU is asked of the device files first, so that a
machine without one never pays for importing PyTorch.
"""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from backlog.errors import UsageError
from backlog.log import event
from backlog.model import DEFAULT_MODEL, LABELS, MODELS, Model
from worker.model.weights import Weights

if TYPE_CHECKING:
    from numpy.typing import NDArray


ENGINES: Final = ("auto", "onnxruntime", "torch")

#: Inputs lie within ±1024 (torchxrayvision 1.5.7, ``utils.normalize``); one more for rounding, as its own
#: check allows (``utils.warn_normalization``).
_LIMIT: Final = 1025.0
#: Pixels of the model's input on a side of a cell of its last feature maps: both networks halve five times.
CELL: Final = 32
#: Present where NVIDIA's driver is, on Linux and under WSL.
GPU_DEVICES: Final = (Path("/dev/nvidiactl"), Path("/dev/dxg"))


class Engine(Protocol):
    """The model, ready to score."""

    @property
    def name(self) -> str:
        """Which runtime it is: ``onnxruntime`` or ``torch``."""

    @property
    def evaluated(self) -> tuple[bool, ...]:
        """Which of `backlog.model.LABELS` the model was trained on."""

    def scores(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score a batch of any size.

        Parameters
        ----------
        images
            (N, 1, side, side) float32 in [-1024, 1024]; the side is the model's.

        Returns
        -------
        NDArray[np.float32]
            (N, 18), in the order of `backlog.model.LABELS`: probabilities normalised so that 0.5 is the
            operating point. The column of a label that the model was not trained on is NaN. The row of an
            image that holds NaN or infinity is NaN throughout; the other rows are what they would be without it.

        Raises
        ------
        ValueError
            Another shape, type or range: the caller has a bug.
        """

    def evaluate(self, images: NDArray[np.float32]) -> Evaluation:
        """Score a batch of any size as `scores` does, and say where each score comes from.

        Parameters
        ----------
        images
            As for `scores`.

        Raises
        ------
        ValueError
            Another shape, type or range: the caller has a bug.
        """


@dataclass(frozen=True)
class Evaluation:
    """What the model says of a batch of images, from one forward pass."""

    scores: NDArray[np.float32]  #: (N, 18), as `Engine.scores` describes
    #: (N, 18, n, n), n = side / 32: the class activation maps (Zhou et al. 2016). Their mean over the cells and the
    #: classifier's bias are the label's logit. NaN throughout for an image that holds NaN or infinity.
    maps: NDArray[np.float32]


class Forward(Protocol):
    """A forward pass: a batch of whole images in, scores and maps out."""

    def evaluate(self, images: NDArray[np.float32]) -> Evaluation:
        """Evaluate (n, 1, side, side) float32 images, as many as it takes at a time."""


@dataclass(frozen=True)
class CheckedEngine:
    """An engine around a forward pass: checks what goes in, and cuts it into batches.

    One process uses it from one thread at a time.
    """

    name: str
    forward: Forward
    batch: int  #: the most images that `forward` takes
    model: Model = MODELS[DEFAULT_MODEL]

    @property
    def evaluated(self) -> tuple[bool, ...]:
        """Which of `backlog.model.LABELS` the model was trained on."""
        return self.model.evaluated

    def scores(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score a batch of any size, as `Engine.scores` describes."""
        return self.evaluate(images).scores

    def evaluate(self, images: NDArray[np.float32]) -> Evaluation:
        """Score a batch of any size and say where the scores come from, as `Engine.evaluate` describes."""
        side = self.model.side
        if images.dtype != np.float32 or images.ndim != 4 or images.shape[1:] != (1, side, side):
            raise ValueError(
                f"images have to be (N, 1, {side}, {side}) float32, not {images.shape} {images.dtype}"
            )
        finite = np.isfinite(images).all(axis=(1, 2, 3))
        cells = side // CELL
        scores = np.full((len(images), len(LABELS)), np.nan, dtype=np.float32)
        maps = np.full((*scores.shape, cells, cells), np.nan, dtype=np.float32)
        # A maximum over pixels may drop a NaN, so a broken image never reaches the model.
        whole = np.ascontiguousarray(images[finite])
        if whole.size and np.abs(whole).max() > _LIMIT:
            raise ValueError("images have to lie in [-1024, 1024]")
        parts = [self.forward.evaluate(whole[i : i + self.batch]) for i in range(0, len(whole), self.batch)]
        if parts:
            scores[finite] = np.concatenate([part.scores for part in parts])
            maps[finite] = np.concatenate([part.maps for part in parts])
        return Evaluation(scores, maps)


def load(weights: Weights, *, engine: str, threads: int) -> Engine:
    """Load the model.

    Parameters
    ----------
    weights
        From `worker.model.weights.locate`.
    engine
        ``onnxruntime``, ``torch``, or ``auto``: PyTorch where it is installed and has a GPU,
        else ONNX Runtime.
    threads
        Threads for one forward pass on the CPU.

    Raises
    ------
    UsageError
        The engine is unknown or not installed, or the weights can't be loaded. The text says what to do.
    """
    if threads < 1:
        raise UsageError(f"the engine needs at least one thread, not {threads}")
    return _torch(weights, threads) if runtime_of(engine) == "torch" else _onnx(weights, threads)


def runtime_of(engine: str) -> str:
    """Return which runtime `load` takes on this machine: ``onnxruntime`` or ``torch``.

    Raises
    ------
    UsageError
        The engine is unknown.
    """
    if engine not in ENGINES:
        raise UsageError(f"CXR_ENGINE has to be one of {', '.join(ENGINES)}, not {engine!r}")
    return "torch" if engine == "torch" or (engine == "auto" and _gpu_is_usable()) else "onnxruntime"


def _onnx(weights: Weights, threads: int) -> Engine:
    from worker.model.network import build_graph
    from worker.model.onnx_engine import BATCH, OnnxForward

    forward = OnnxForward(build_graph(weights), threads=threads)
    return CheckedEngine("onnxruntime", forward, BATCH, weights.model)


def _torch(weights: Weights, threads: int) -> Engine:
    if not _installed("torch") or not _installed("torchxrayvision"):
        raise UsageError(
            "CXR_ENGINE=torch needs PyTorch: install cxr-backlog[gpu], or set CXR_ENGINE=onnxruntime"
        )
    from worker.model.torch_engine import BATCH, torch_forward

    return CheckedEngine("torch", torch_forward(weights, threads=threads), BATCH, weights.model)


def may_use_gpu(engine: str) -> bool:
    """Whether this machine's PyTorch may score on a GPU, as far as can be said without importing it."""
    devices = any(device.exists() for device in GPU_DEVICES)
    return engine != "onnxruntime" and devices and _installed("torch")


def _gpu_is_usable() -> bool:
    if not may_use_gpu("auto"):
        return False
    import torch

    if torch.cuda.is_available():
        return True
    event("engine.gpu_unusable", logging.WARNING, version=torch.__version__)
    return False


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
