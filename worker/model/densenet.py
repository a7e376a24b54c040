"""torchxrayvision's DenseNet as an ONNX graph, from its state dict alone.

In a transition the graph takes the mean first: a mean over 2 × 2 pixels and a 1 × 1 convolution without bias are both
linear, one over pixels and one over channels, so their order is free, and after the mean the convolution is a quarter
of the work.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

from worker.model.layers import DoesNotFit, Layers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


def densenet_graph(state: Mapping[str, NDArray[Any]], points: Sequence[float], side: int) -> bytes:
    """Write the graph of a DenseNet; how many blocks and layers it has follows from the state dict.

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
    x, channels = layers.convolution("features.conv0", "images", 1, 7, norm="features.norm0", stride=2)
    x = layers.max_pool("features.pool0", layers.relu(x))
    for block in count(1):
        x, channels = _dense_block(layers, f"features.denseblock{block}", x, channels)
        name = f"features.transition{block}"
        if f"{name}.conv.weight" not in layers:
            break
        x = layers.relu(layers.norm(f"{name}.norm", x, channels))
        x, channels = layers.convolution(f"{name}.conv", layers.halve(f"{name}.pool", x), channels, 1)
    x = layers.relu(layers.norm("features.norm5", x, channels))
    return layers.finish("classifier", x, channels, points, side)


def _dense_block(layers: Layers, block: str, x: str, channels: int) -> tuple[str, int]:
    if f"{block}.denselayer1.conv1.weight" not in layers:
        raise DoesNotFit(f"it has no {block}.denselayer1.conv1.weight")
    for layer in count(1):
        name = f"{block}.denselayer{layer}"
        if f"{name}.conv1.weight" not in layers:
            break
        y = layers.relu(layers.norm(f"{name}.norm1", x, channels))
        y, inner = layers.convolution(f"{name}.conv1", y, channels, 1, norm=f"{name}.norm2")
        y, more = layers.convolution(f"{name}.conv2", layers.relu(y), inner, 3)
        x, channels = layers.graph.node("Concat", f"{name}.out", x, y, axis=1), channels + more
    return x, channels
