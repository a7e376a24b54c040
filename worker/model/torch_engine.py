"""The model on PyTorch: half precision on a GPU, float32 on a CPU.

On a GPU every batch is padded to one size: a full batch costs a GPU a few milliseconds, and the same kernels give an
image the same scores whatever stands beside it.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval

from backlog.log import event
from backlog.model import ENGINE_TOLERANCE
from worker.model.engine import Evaluation
from worker.model.network import sample_images
from worker.model.torch_model import Scorer, network

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from worker.model.weights import Weights


#: Images in one forward pass.
BATCH: Final = 32
#: A convolution and the batch norm that follows it: DenseNet's first and its layers', ResNet's bottlenecks', and those
#: that are numbered (ResNet's first, its shortcuts).
_PAIRS: Final = (
    *(("conv0", "norm0"), ("conv1", "norm2")),
    *(("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), ("0", "1")),
)


def torch_forward(weights: Weights, *, threads: int, device: str | None = None) -> TorchForward:
    """Load the model onto a device: up to `BATCH` images in, their scores and maps out.

    On a GPU it runs in half precision if that keeps the scores within `ENGINE_TOLERANCE` of float32 on the CPU, and in
    float32 if not.

    Parameters
    ----------
    weights
        From `worker.model.weights.locate`.
    threads
        Threads for a forward pass on the CPU.
    device
        ``cuda`` where there is a GPU, else ``cpu``, unless it is named.

    Raises
    ------
    RuntimeError
        The device doesn't reproduce the model's scores.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.set_num_threads(threads)
    model = network(weights)
    points, side = weights.model.points, weights.model.side
    single = Scorer(model, points).eval()
    if place.type == "cpu":
        return TorchForward(single, place, side)
    exact = TorchForward(single, torch.device("cpu"), side)
    return first_in_parity([half_precision(model, points), single], place, exact)


def first_in_parity(scorers: Sequence[Scorer], device: torch.device, exact: TorchForward) -> TorchForward:
    """Take the first scorer that gives the exact one's scores, to `ENGINE_TOLERANCE`, on this device.

    Parameters
    ----------
    scorers
        The candidates, the fastest first.
    device
        The device that they run on.
    exact
        The model in float32 on the CPU, which they are compared with.

    Raises
    ------
    RuntimeError
        None does.
    """
    images = sample_images(exact.side)
    expected = exact(images)
    trained = ~np.isnan(expected)
    for choice, scorer in enumerate(scorers):
        forward = TorchForward(scorer, device, exact.side)
        difference = float(np.abs(forward(images) - expected)[trained].max())
        event("engine.parity", choice=choice, difference=f"{difference:.1e}")
        if difference <= ENGINE_TOLERANCE:  # false for NaN, as from an overflow of half precision
            return forward
    raise RuntimeError(f"the device {device.type} doesn't reproduce the model's scores")


class TorchForward:
    """A forward pass on one device.

    Parameters
    ----------
    scorer
        Float32 images to float32 scores and maps; copied to the device.
    device
        Where to run.
    side
        Pixels on a side of an image.
    """

    def __init__(self, scorer: Scorer, device: torch.device, side: int) -> None:
        self.side = side
        self._scorer = copy.deepcopy(scorer).to(device)
        self._device = device

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score (n, 1, side, side) float32 images, n ≤ `BATCH`: (n, 18) float32."""
        return self.evaluate(images).scores

    def evaluate(self, images: NDArray[np.float32]) -> Evaluation:
        """Score (n, 1, side, side) float32 images, n ≤ `BATCH`, with their class activation maps."""
        count = len(images)
        batch = torch.from_numpy(images)
        if self._device.type != "cpu":
            batch = nn.functional.pad(batch, (0, 0, 0, 0, 0, 0, 0, BATCH - count))
        with torch.inference_mode():
            scores, maps = self._scorer.scores_and_maps(batch.to(self._device))
            return Evaluation(scores[:count].numpy(force=True), maps[:count].numpy(force=True))


class _HalfFeatures(nn.Module):
    """The convolutions in half precision, channels last, which is how a GPU's matrix units want them."""

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features.half().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute features: float32 (N, 1, side, side) to half (N, channels, side / 32, side / 32)."""
        return cast("torch.Tensor", self.features(images.to(torch.half, memory_format=torch.channels_last)))


def half_precision(model: nn.Module, points: tuple[float, ...]) -> Scorer:
    """Build a scorer whose convolutions run in half precision; the pooling and the classifier stay float32.

    Each batch norm that follows a convolution is folded into it first. That saves its pass over memory, and
    keeps the first convolution's outputs, sums of pixels up to ±1024, clear of half precision's 65504.
    """
    features: Any = copy.deepcopy(model.features)
    _fold_all(features)
    return Scorer(model, points, _HalfFeatures(features)).eval()


def _fold_all(module: nn.Module) -> None:
    """Fold each batch norm that stands right behind a convolution, as the names of both networks tell."""
    names = dict(module.named_children())
    for convolution, norm in _PAIRS:
        first, second = names.get(convolution), names.get(norm)
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
            setattr(module, convolution, fuse_conv_bn_eval(first, second))
            setattr(module, norm, nn.Identity())
    for child in module.children():
        _fold_all(child)
