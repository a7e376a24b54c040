"""The networks in numpy alone and in double precision: what every graph is compared with before it scores.

Written from the architecture, not from the graph: it knows nothing of ONNX, folds nothing, and takes the mean of a
transition last. It is slower than the graph by a factor of ten, so it scores a few sample images only.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.floating[Any]]

_EPSILON: Final = 1e-5


def exact_scores(
    state: Mapping[str, Array],
    points: Sequence[float],
    images: Array,
    dtype: type[np.floating[Any]] = np.float64,
) -> Array:
    """Score images one by one.

    Parameters
    ----------
    state
        Of a DenseNet or a ResNet.
    points
        The operating points; NaN for a label that the network was not trained on.
    images
        (N, 1, side, side) in [-1024, 1024].
    dtype
        In which all is computed.

    Returns
    -------
    NDArray
        (N, labels) in [0, 1]; NaN where the operating point is.
    """
    network = _Network(state, dtype)
    features = network.densenet if "classifier.weight" in state else network.resnet
    head = "classifier" if "classifier.weight" in state else "fc"
    return np.stack([network.scores(head, features(image), points) for image in images])


class _Network:
    def __init__(self, state: Mapping[str, Array], dtype: type[np.floating[Any]]) -> None:
        self._state = state
        self._dtype = dtype

    def array(self, name: str) -> Array:
        return self._state[name].astype(self._dtype)

    def norm(self, x: Array, name: str) -> Array:
        weight, bias, mean, variance = (
            self.array(f"{name}.{part}")[:, None, None]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / np.sqrt(variance + self._dtype(_EPSILON)) * weight + bias

    def convolve(self, x: Array, name: str, stride: int = 1) -> Array:
        weight = self.array(f"{name}.weight")
        side = weight.shape[-1]
        if side == 1:
            x = x[:, ::stride, ::stride]
            return (weight[:, :, 0, 0] @ x.reshape(len(x), -1)).reshape(-1, *x.shape[1:])
        windows = _windows(x, side, stride, side // 2)
        height, width = windows.shape[1:3]
        columns = windows.transpose(0, 3, 4, 1, 2).reshape(-1, height * width)
        return (weight.reshape(len(weight), -1) @ columns).reshape(-1, height, width)

    def stem(self, image: Array, convolution: str, norm: str) -> Array:
        x = np.maximum(self.norm(self.convolve(image.astype(self._dtype), convolution, 2), norm), 0)
        return np.asarray(_windows(x, 3, 2, 1).max((-2, -1)))  # zeros around: nothing is below zero here

    def densenet(self, image: Array) -> Array:
        x = self.stem(image, "features.conv0", "features.norm0")
        for block in count(1):
            for layer in count(1):
                name = f"features.denseblock{block}.denselayer{layer}"
                if f"{name}.conv1.weight" not in self._state:
                    break
                y = self.convolve(np.maximum(self.norm(x, f"{name}.norm1"), 0), f"{name}.conv1")
                y = self.convolve(np.maximum(self.norm(y, f"{name}.norm2"), 0), f"{name}.conv2")
                x = np.concatenate([x, y])
            name = f"features.transition{block}"
            if f"{name}.conv.weight" not in self._state:
                break
            x = self.convolve(np.maximum(self.norm(x, f"{name}.norm"), 0), f"{name}.conv")
            x = (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
        return np.maximum(self.norm(x, "features.norm5"), 0)

    def resnet(self, image: Array) -> Array:
        x = self.stem(image, "conv1", "bn1")
        for stage in range(1, 5):
            for block in count():
                name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
                if f"{name}.conv1.weight" not in self._state:
                    break
                y = np.maximum(self.norm(self.convolve(x, f"{name}.conv1"), f"{name}.bn1"), 0)
                y = np.maximum(self.norm(self.convolve(y, f"{name}.conv2", stride), f"{name}.bn2"), 0)
                y = self.norm(self.convolve(y, f"{name}.conv3"), f"{name}.bn3")
                if f"{name}.downsample.0.weight" in self._state:
                    x = self.norm(self.convolve(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
                x = np.maximum(x + y, 0)
        return x

    def scores(self, head: str, features: Array, points: Sequence[float]) -> Array:
        """Apply the classifier, the sigmoid and torchxrayvision's ``op_norm`` (1.5.7, models.py)."""
        logits = self.array(f"{head}.weight") @ features.mean((1, 2)) + self.array(f"{head}.bias")
        with np.errstate(over="ignore"):  # exp of a large number: the probability rightly ends as 0
            p = 1 / (1 + np.exp(-logits))
        # Operating points are float32 numbers in torchxrayvision.
        limits = np.array(points, np.float32).astype(self._dtype)
        return np.asarray(np.where(p < limits, p / (2 * limits), 1 - (1 - p) / (2 * (1 - limits))))


def _windows(x: Array, side: int, stride: int, around: int) -> Array:
    padded = np.pad(x, ((0, 0), (around, around), (around, around)))
    return np.lib.stride_tricks.sliding_window_view(padded, (side, side), (1, 2))[:, ::stride, ::stride]
