"""The layers that torchxrayvision's networks are made of, as nodes of an ONNX graph, from a state dict's arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from worker.model.onnx_graph import OnnxGraph

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

#: torch.nn.BatchNorm2d's default, which torchxrayvision keeps.
EPSILON: Final = 1e-5


class DoesNotFit(ValueError):
    """The arrays are those of another network."""


class Layers:
    """Builds a graph layer by layer and notes which arrays it has used.

    Parameters
    ----------
    state
        A state dict.
    """

    def __init__(self, state: Mapping[str, NDArray[Any]]) -> None:
        self._state = state
        self._used: set[str] = set()
        self.graph = OnnxGraph()

    def __contains__(self, name: str) -> bool:
        """Whether the state dict has an array of this name."""
        return name in self._state

    def array(self, name: str, *shape: int | None) -> NDArray[np.float32]:
        """Take an array; None in the shape stands for any size.

        Raises
        ------
        DoesNotFit
            There is none, or it has another shape, or a number in it is not finite.
        """
        found = self._state.get(name)
        if found is None:
            raise DoesNotFit(f"it has no {name}")
        if found.dtype.kind != "f" or len(found.shape) != len(shape) or any(
            want not in (None, n) for n, want in zip(found.shape, shape, strict=True)
        ):  # fmt: skip
            wanted = "×".join("n" if n is None else str(n) for n in shape)
            raise DoesNotFit(
                f"{name} is {found.dtype} of {'×'.join(map(str, found.shape))}, not float of {wanted}"
            )
        if not np.isfinite(found).all():
            raise DoesNotFit(f"{name} holds a number that is not finite")
        self._used.add(name)
        return np.asarray(found, np.float32)

    def norm(self, name: str, source: str, channels: int) -> str:
        """Add a batch norm of its own; ONNX Runtime folds what can be folded.

        Parameters
        ----------
        name
            Of the layer in the weights.
        source
            Name of its input.
        channels
            Of the input.
        """
        parts = [f"{name}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        self._used.add(f"{name}.num_batches_tracked")
        for part in parts:
            self.graph.constant(part, self.array(part, channels))
        return self.graph.node("BatchNormalization", f"{name}.out", source, *parts, epsilon=EPSILON)

    def relu(self, source: str) -> str:
        """Add a rectifier."""
        return self.graph.node("Relu", f"{source}.relu", source)

    def convolution(
        self, name: str, source: str, channels: int, kernel: int, *, norm: str = "", stride: int = 1
    ) -> tuple[str, int]:
        """Add a convolution without bias, and fold the batch norm that follows it into it.

        Parameters
        ----------
        name
            Of the layer in the weights.
        source
            Name of its input.
        channels
            Of the input.
        kernel
            Pixels on a side.
        norm
            Name of the batch norm that follows; empty for none.
        stride
            Pixels between two places of the kernel.

        Returns
        -------
        tuple[str, int]
            The result and how many channels it has.
        """
        weight = self.array(f"{name}.weight", None, channels, kernel, kernel)
        count = len(weight)
        inputs = [f"{name}.weight"]
        if norm:
            scale, shift, mean, variance = (
                self.array(f"{norm}.{part}", count).astype(np.float64)
                for part in ("weight", "bias", "running_mean", "running_var")
            )
            self._used.add(f"{norm}.num_batches_tracked")
            factor = scale / np.sqrt(variance + EPSILON)
            self.graph.constant(f"{name}.bias", (shift - mean * factor).astype(np.float32))
            weight = (weight * factor[:, None, None, None]).astype(np.float32)
            inputs.append(f"{name}.bias")
        self.graph.constant(f"{name}.weight", weight)
        out = self.graph.node(
            "Conv",
            f"{name}.out",
            source,
            *inputs,
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[kernel // 2] * 4,
            dilations=[1, 1],
            group=1,
        )
        return out, count

    def max_pool(self, name: str, source: str) -> str:
        """Add the maximum over 3 × 3 with a stride of 2."""
        return self.graph.node(
            "MaxPool", f"{name}.out", source, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4
        )

    def halve(self, name: str, source: str) -> str:
        """Add the mean over 2 × 2."""
        return self.graph.node("AveragePool", f"{name}.out", source, kernel_shape=[2, 2], strides=[2, 2])

    def finish(self, name: str, source: str, channels: int, points: Sequence[float], side: int) -> bytes:
        """Add the mean over each feature map, the classifier, and what makes scores and maps of it; encode all.

        A class activation map (Zhou et al. 2016) is the classifier applied to each cell of the last feature maps
        instead of to their means: the mean of a map and the classifier's bias are the label's logit. For a network
        that ends in this way Grad-CAM (Selvaraju et al. 2017) is the same but for a factor, so nothing has to be
        differentiated.

        Parameters
        ----------
        name
            The classifier's.
        source, channels
            The last feature maps, after the rectifier.
        points
            The operating points; NaN for a label that the network was not trained on, whose score is NaN.
        side
            Pixels on a side of the images.

        Returns
        -------
        bytes
            (n, 1, side, side) ``images`` to (n, labels) ``scores`` and (n, labels, side / 32, side / 32) ``maps``.

        Raises
        ------
        DoesNotFit
            The state dict has arrays that no layer has used.
        """
        count = len(points)
        weight = self.array(f"{name}.weight", count, channels)
        bias = self.array(f"{name}.bias", count)
        if left := self._state.keys() - self._used:
            raise DoesNotFit(f"it has {min(left)} too")
        g = self.graph
        g.constant(f"{name}.weight", weight)
        g.constant(f"{name}.bias", bias)
        g.constant("maps.weight", weight[:, :, None, None])
        g.node("Conv", "maps", source, "maps.weight", kernel_shape=[1, 1])
        pooled = g.node("ReduceMean", "pooled", source, axes=[2, 3], keepdims=0)
        logits = g.node("Gemm", "logits", pooled, f"{name}.weight", f"{name}.bias", transB=1)
        self._scores(logits, np.array(points, np.float32))
        cells = side // 32
        return g.encode(
            {"images": ["n", 1, side, side]}, {"scores": ["n", count], "maps": ["n", count, cells, cells]}
        )

    def _scores(self, logits: str, points: NDArray[np.float32]) -> None:
        """Add sigmoid and torchxrayvision's ``op_norm`` (1.5.7, models.py): an operating point becomes 0.5."""
        g = self.graph
        one = g.constant("one", np.array(1, np.float32))
        # ONNX Runtime approximates Sigmoid to about 1e-7, which an operating point of 0.002 makes 200 times
        # larger. Its Exp is right to rounding; one that overflows to infinity rightly ends as 0.
        p = g.node("Exp", "exp", g.node("Neg", "neg", logits))
        p = g.node("Reciprocal", "probabilities", g.node("Add", "add", p, one))
        below = g.node("Div", "below", p, g.constant("twice", 2 * points))
        above = g.node(
            "Div", "over", g.node("Sub", "rest", one, p), g.constant("twice.rest", 2 * (1 - points))
        )
        above = g.node("Sub", "above", one, above)
        under = g.node("Less", "under", p, g.constant("points", points))
        g.node("Where", "scores", under, below, above)
