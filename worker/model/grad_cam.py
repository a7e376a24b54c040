"""Where in the image a score comes from: Grad-CAM of one finding, by ONNX Runtime on the CPU.

It needs an export of its own (``worker/model/grad_cam_export.py`` says why no gradient is needed), made only where
pictures are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from backlog.errors import UsageError
from worker.model.onnx_engine import OnnxForward
from worker.model.weights import MAPPING, Weights, exported, read_verified

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Maps:
    """What the model says of one image, and where."""

    scores: NDArray[np.float32]  #: (18,)
    cells: NDArray[np.float32]  #: (18, 7, 7), what each cell adds to the finding's logit, times 49

    def heat(self, finding: int) -> NDArray[np.float32]:
        """Return where a finding's score is raised: (7, 7) in [0, 1], all zero where nothing raises it.

        What lowers it is cut off, as Grad-CAM does (Selvaraju et al. 2017, equation 2).
        """
        raised = np.maximum(self.cells[finding], 0)
        most = float(raised.max())
        return np.asarray(raised / most if most > 0 else raised, np.float32)


class Mapper:
    """The model with maps, loaded.

    Parameters
    ----------
    weights
        From `worker.model.weights.locate`.
    cache
        Where its export is, or will be.

    Raises
    ------
    UsageError
        ONNX Runtime isn't installed, or there is no export and none can be made here.
    """

    def __init__(self, weights: Weights, cache: Path) -> None:
        path = exported(weights, cache, MAPPING)
        self._forward = OnnxForward(read_verified(path, path.name.split(".")[-2]), threads=1)
        if self._forward.metadata.get("weights_sha256") != weights.sha256:
            raise UsageError(f"{path} was exported from other weights: remove it")

    def __call__(self, image: NDArray[np.float32]) -> Maps:
        """Map one image of (224, 224) in [-1024, 1024]."""
        scores, cells = self._forward.outputs(np.ascontiguousarray(image[None, None]), "scores", "maps")
        return Maps(scores[0], cells[0])
