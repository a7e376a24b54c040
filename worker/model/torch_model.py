"""Weights to PyTorch: torchxrayvision's DenseNet, the scorer made of its parts, and the seeded weights.

Importing this module imports PyTorch. A CPU worker process never does: it runs the ONNX export, and what
needs PyTorch runs as ``python -m worker.model.torch_model`` or ``-m worker.model.onnx_export`` in a process of its own.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import torch
import torchxrayvision as xrv
from torch import nn

from backlog.errors import UsageError
from backlog.model import LABELS
from worker.model.cache import write_atomically
from worker.model.weights import RELEASED_NAME, read_verified

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from worker.model.weights import Weights

#: torchxrayvision 1.5.7, models.py: 224 is the resolution that these weights were trained at.
SIDE: Final = 224
#: Inputs lie within ±1024 (torchxrayvision 1.5.7, ``utils.normalize``).
LIMIT: Final = 1024.0


def operating_points() -> torch.Tensor:
    """Give torchxrayvision's operating points of the 18 labels, (18,) float32, as probabilities.

    They belong to the weights' configuration, not to the weights file (torchxrayvision 1.5.7,
    ``models.model_urls``).
    """
    config = xrv.models.model_urls[RELEASED_NAME]
    if tuple(config["labels"]) != LABELS:
        raise UsageError("the installed torchxrayvision has other labels than this program: install 1.5.7")
    return torch.tensor(config["op_threshs"])


def reference(weights: Weights) -> nn.Module:
    """Load verified weights into torchxrayvision's own DenseNet: float32, on the CPU, in eval mode.

    The bytes that are loaded are hashed first. A state dict is loaded without running any code. A pickled
    module can only be loaded by running what it names; that happens to files whose hash is that of the
    release, or was given with CXR_WEIGHTS_SHA256 by a user who vouches for the file.

    Raises
    ------
    UsageError
        The file has another hash, is damaged, or holds another model.
    """
    content = read_verified(weights.path, weights.sha256)
    state = _state_dict(_unpickled(content, weights.path), weights.path)
    points = operating_points()
    own_points = state.pop("op_threshs", None)  # in the state dict of a model that torchxrayvision loaded
    if own_points is not None and not torch.equal(own_points.float(), points):
        raise UsageError(f"{weights.path} holds other operating points: it isn't {RELEASED_NAME}")
    model: Any = _architecture()  # Any: nn.Module types every attribute as Tensor | Module
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise UsageError(f"{weights.path} doesn't fit a DenseNet-121 of {len(LABELS)} labels") from error
    model.op_threshs = points
    # From here on torchxrayvision warns about inputs of another range or resolution, as with weights by name.
    model.input_resolution = SIDE
    return cast("nn.Module", model.eval())


class Scorer(nn.Module):
    """The path from images to scores, without torchxrayvision's input checks and its masked assignments.

    Parameters
    ----------
    model
        From `reference`.
    features
        Stands in for the model's convolutions, at any precision.
    """

    points: torch.Tensor

    def __init__(self, model: nn.Module, features: nn.Module | None = None) -> None:
        super().__init__()
        self.features = cast("nn.Module", model.features) if features is None else features
        self.classifier = cast("nn.Module", model.classifier)
        self.register_buffer("points", cast("torch.Tensor", model.op_threshs))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Score images: (N, 1, 224, 224) in [-1024, 1024] to (N, 18) in [0, 1].

        A probability at its operating point becomes 0.5; below and above it the scale is linear
        (torchxrayvision 1.5.7, ``models.op_norm``). The pooling and what follows are float32
        also where the features are half.
        """
        return self.scores_of(self.activations(images))

    def activations(self, images: torch.Tensor) -> torch.Tensor:
        """Return the last feature maps, (N, 1024, 7, 7)."""
        return torch.relu(self.features(images))

    def scores_of(self, activations: torch.Tensor) -> torch.Tensor:
        """Pool the last feature maps and score them: (N, 18)."""
        pooled = activations.to(self.points.dtype).mean((2, 3))
        # ONNX Runtime approximates Sigmoid to about 1e-7, which an operating point of 0.002 makes 200 times
        # larger. Its Exp is right to rounding; one that overflows to infinity rightly ends as 0.
        probabilities = 1 / (1 + torch.exp(-self.classifier(pooled)))
        below = probabilities / (2 * self.points)
        above = 1 - (1 - probabilities) / (2 * (1 - self.points))
        return torch.where(probabilities < self.points, below, above)


def sample_images() -> NDArray[np.float32]:
    """Give the images for comparing two forms of the model: (8, 1, 224, 224) float32 in [-1024, 1024].

    Ramps, a bright shape on a dark ground and the reverse, a fine grid, noise, and the two extremes.
    """
    ramp = np.linspace(-LIMIT, LIMIT, SIDE, dtype=np.float32)
    y, x = np.meshgrid(ramp, ramp, indexing="ij")
    disc = np.where(np.hypot(x, y) < LIMIT / 2, LIMIT / 2, -LIMIT / 2)
    grid = np.where((np.arange(SIDE)[:, None] // 4 + np.arange(SIDE)[None] // 4) % 2, 300.0, -300.0)
    noise = (np.random.default_rng(0).random((SIDE, SIDE)) - 0.5) * LIMIT
    flat = np.full((SIDE, SIDE), LIMIT)
    return np.stack([x, (y + x) / 2, disc, -disc, grid, noise, flat, -flat]).astype(np.float32)[:, None]


def write_seeded(path: Path, seed: int = 0) -> None:
    """Write a state dict of seeded weights, the same bytes on every machine.

    They are scaled so that a radiograph's scores spread around 0.5: saturated ones would hide differences.
    """
    # Uniform float32 numbers are exact integer arithmetic; torch's normal ones depend on the vector unit.
    generator = np.random.default_rng(seed)
    state = _architecture().state_dict()
    for name, value in state.items():
        low, high = _seeded_range(name, value)
        if value.is_floating_point():
            numbers = generator.random(tuple(value.shape), dtype=np.float32)
            state[name] = torch.from_numpy(numbers * np.float32(high - low) + np.float32(low))
    state["classifier.bias"] = torch.from_numpy(np.float32(_logit(operating_points().double().numpy())))
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


def _seeded_range(name: str, value: torch.Tensor) -> tuple[float, float]:
    """Keep the variance of one through the net: He initialisation, and batch norms that do little."""
    if name == "features.norm0.running_var":
        pixel_deviation = (
            500.0  # of a typical image on the ±1024 scale; the first convolution doubles its square
        )
        return 1.6 * pixel_deviation**2, 2.4 * pixel_deviation**2
    if name == "classifier.weight":
        return -0.09, 0.09  # logits of about ±1 around the operating points
    if value.ndim == 4:
        bound = math.sqrt(6 / (value.shape[1] * value.shape[2] * value.shape[3]))
        return -bound, bound
    if name.endswith(("running_mean", "bias")):
        return -0.1, 0.1
    return 0.8, 1.2


def _logit(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    return cast("NDArray[np.float64]", np.log(probability / (1 - probability)))


def _architecture() -> nn.Module:
    return cast("nn.Module", xrv.models.DenseNet(num_classes=len(LABELS)))


def _unpickled(content: bytes, path: Path) -> object:
    try:
        return _load(content, weights_only=True)
    except pickle.UnpicklingError:
        pass  # a pickled module, as the release is: its hash was asked for, see `reference`
    except Exception as error:
        raise _damaged(path) from error
    try:
        return _load(content, weights_only=False)
    except Exception as error:  # unpickling raises whatever the bytes lead to
        raise _damaged(path) from error


def _load(content: bytes, *, weights_only: bool) -> object:
    with warnings.catch_warnings():
        # An older PyTorch stored the source of its classes, which have changed since.
        warnings.simplefilter("ignore", torch.serialization.SourceChangeWarning)
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=weights_only)


def _damaged(path: Path) -> UsageError:
    return UsageError(f"{path} is no readable PyTorch file, though its hash is the expected one: replace it")


def _state_dict(loaded: object, path: Path) -> dict[str, Any]:
    if isinstance(loaded, nn.Module):
        for module in loaded.modules():
            # Modules pickled before PyTorch 1.6 lack what state_dict() asks for (pytorch issue 42242).
            if not hasattr(module, "_non_persistent_buffers_set"):
                module._non_persistent_buffers_set = set()  # noqa: SLF001
        loaded = loaded.state_dict()
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise UsageError(f"{path} holds neither a state dict nor a model")
    return dict(loaded)


if __name__ == "__main__":
    try:
        write_seeded(Path(sys.argv[1]))
    except UsageError as error:
        print(error, file=sys.stderr)  # noqa: T201 - for the process that started this one
        sys.exit(os.EX_USAGE)
