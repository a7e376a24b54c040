"""torchxrayvision's ResNet-50 as an ONNX graph, from its state dict alone.

It is torchvision's with one input channel: bottlenecks whose stride is in the 3 × 3 convolution. Every batch norm
follows a convolution, so all are folded.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

from worker.model.layers import DoesNotFit, Layers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


def resnet_graph(state: Mapping[str, NDArray[Any]], points: Sequence[float], side: int) -> bytes:
    """Write the graph of a ResNet with bottlenecks; how many it has follows from the state dict.

    Parameters
    ----------
    state, points, side
        See `worker.model.layers.Layers.finish`.

    Returns
    -------
    bytes
        See `worker.model.layers.Layers.finish`.

    Raises
    ------
    DoesNotFit
        The arrays are those of another network.
    """
    layers = Layers(state)
    x, channels = layers.convolution("conv1", "images", 1, 7, norm="bn1", stride=2)
    x = layers.max_pool("maxpool", layers.relu(x))
    for stage in range(1, 5):
        if f"layer{stage}.0.conv1.weight" not in layers:
            raise DoesNotFit(f"it has no layer{stage}.0.conv1.weight")
        for block in count():
            name = f"layer{stage}.{block}"
            if f"{name}.conv1.weight" not in layers:
                break
            x, channels = _bottleneck(layers, name, x, channels, 2 if stage > 1 and block == 0 else 1)
    return layers.finish("fc", x, channels, points, side)


def _bottleneck(layers: Layers, name: str, x: str, channels: int, stride: int) -> tuple[str, int]:
    y, inner = layers.convolution(f"{name}.conv1", x, channels, 1, norm=f"{name}.bn1")
    y, inner = layers.convolution(
        f"{name}.conv2", layers.relu(y), inner, 3, norm=f"{name}.bn2", stride=stride
    )
    y, more = layers.convolution(f"{name}.conv3", layers.relu(y), inner, 1, norm=f"{name}.bn3")
    if f"{name}.downsample.0.weight" in layers:
        x, _ = layers.convolution(
            f"{name}.downsample.0", x, channels, 1, norm=f"{name}.downsample.1", stride=stride
        )
    return layers.relu(layers.graph.node("Add", f"{name}.sum", x, y)), more
