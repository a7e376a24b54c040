"""Where in the image a score comes from: class activation maps, from the same forward pass as the scores.

`worker.model.layers.Layers.finish` says why no gradient is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from worker.model.evidence import raised
from worker.model.network import build_graph
from worker.model.onnx_engine import OnnxForward

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from worker.model.weights import Weights


@dataclass(frozen=True)
class ClassActivationMaps:
    """What the model says of one image, and where."""

    scores: NDArray[np.float32]  #: (18,)
    cells: NDArray[
        np.float32
    ]  #: (18, n, n), what each cell adds to the label's logit, times the number of cells

    def heat(self, finding: int) -> NDArray[np.float32]:
        """Return where a finding's score is raised: (n, n) in [0, 1], all zero where nothing raises it.

        See `worker.model.evidence.raised`.
        """
        return raised(self.cells[finding])


class ClassActivation:
    """The model with its maps, loaded: ONNX Runtime on a CPU.

    Parameters
    ----------
    weights
        From `worker.model.weights.locate`.
    threads
        How many threads it may use.

    Raises
    ------
    UsageError
        ONNX Runtime isn't installed, or the weights can't be loaded.
    """

    def __init__(self, weights: Weights, threads: int = 1) -> None:
        self._forward = OnnxForward(build_graph(weights), threads=threads)

    def __call__(self, image: NDArray[np.float32]) -> ClassActivationMaps:
        """Map one image of (side, side) in [-1024, 1024]."""
        scores, cells = self._forward.outputs(np.ascontiguousarray(image[None, None]), "scores", "maps")
        return ClassActivationMaps(scores[0], cells[0])
