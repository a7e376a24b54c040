"""The model's graph on ONNX Runtime and a CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from backlog.errors import UsageError
from worker.model.engine import Evaluation

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Images in one run of the session. A CPU's speed is the same from 1 to 32, and its memory isn't: 221 MB
#: with 4, 489 MB with 16, 889 MB with 32.
BATCH: Final = 4


class OnnxForward:
    """A session over a graph: up to `BATCH` images in, their scores out.

    Parameters
    ----------
    graph
        From `worker.model.network.build_graph`.
    threads
        How many threads one run may use.

    Raises
    ------
    UsageError
        ONNX Runtime isn't installed.
    """

    def __init__(self, graph: bytes, *, threads: int) -> None:
        try:
            import onnxruntime as ort
        except ModuleNotFoundError as error:
            raise UsageError(
                "onnxruntime isn't installed: install cxr-backlog[inference], or set CXR_ENGINE=torch"
            ) from error
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Threads that wait in a loop gain nothing alone, and cost a fifth where two workers share the cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Warnings about the graph would go to stderr past our logging.
        options.log_severity_level = 3
        self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score (n, 1, side, side) float32 images: (n, 18) float32."""
        return self.outputs(images, "scores")[0]

    def evaluate(self, images: NDArray[np.float32]) -> Evaluation:
        """Score (n, 1, side, side) float32 images, with their class activation maps."""
        return Evaluation(*self.outputs(images, "scores", "maps"))

    def outputs(self, images: NDArray[np.float32], *names: str) -> list[NDArray[np.float32]]:
        """Return some of the graph's outputs by name."""
        return list(self._session.run(list(names), {"images": images}))
