"""The graph that PyTorch's exporter makes of the same network: what the graph from arrays is measured against."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from worker.model.torch_model import Scorer, network

if TYPE_CHECKING:
    from worker.model.weights import Weights

#: Supported by every ONNX Runtime since 1.12.
_OPSET = 17


def exported_by_torch(weights: Weights) -> bytes:
    """Export the scorer for batches of any size; ``images`` in, ``scores`` out."""
    side = weights.model.side
    module = Scorer(network(weights), weights.model.points).eval()
    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        path = Path(directory) / "model.onnx"
        # dynamo=False is deprecated. The new exporter needs one more package and gains this graph nothing.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            module,
            (torch.zeros(2, 1, side, side),),
            path,
            input_names=["images"],
            output_names=["scores"],
            dynamic_axes={"images": {0: "n"}, "scores": {0: "n"}},
            opset_version=_OPSET,
            dynamo=False,
        )
        return path.read_bytes()
