"""PyTorch to ONNX: run as ``python -m worker.model.onnx_export WEIGHTS SHA256 CACHE``, once for a set of weights.

The graph holds the whole way from images to scores, sigmoid and operating points included. PyTorch folds each
batch norm that follows a convolution into it and all constants. What suits one processor only (the blocked
layout) ONNX Runtime does when it loads the graph, in a tenth of a second, so the file fits every machine.
"""

from __future__ import annotations

import copy
import hashlib
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx
import torch

from backlog.errors import UsageError
from backlog.model import LABELS
from worker.model.cache import write_atomically
from worker.model.onnx_engine import OnnxForward
from worker.model.torch_model import SIDE, Scorer, reference, sample_images
from worker.model.weights import EXPORT_VERSION, Weights, export_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

#: The export's scores equal PyTorch's to this.
PARITY: Final = 1e-5
#: No export departs further than this, whatever float32 itself loses: the promise made for every score.
WORST_PARITY: Final = 1e-4
#: Supported by every ONNX Runtime since 1.12.
_OPSET: Final = 17


def export(weights: Weights, cache: Path) -> Path:
    """Export verified weights, compare the result with PyTorch, and only then put it into the cache.

    Raises
    ------
    UsageError
        The weights can't be loaded, or the export's scores differ from PyTorch's.
    """
    model = reference(weights)
    graph = graph_of(Scorer(model), weights, ("scores",))
    compare(model, graph)
    path = cache / export_name(weights, hashlib.sha256(graph).hexdigest())
    write_atomically(path, graph)
    return path


def compare(model: nn.Module, graph: bytes) -> None:
    """Compare an export's scores with those of torchxrayvision's own forward pass.

    The tolerance is `PARITY`, or four times what PyTorch's float32 differs from its float64 where that is
    more: two float32 programs can't agree better than either agrees with the exact result.

    Raises
    ------
    UsageError
        They differ by more.
    """
    images = sample_images()
    with torch.inference_mode():
        single = model(torch.from_numpy(images)).numpy()
        exact = Scorer(copy.deepcopy(model)).double()(torch.from_numpy(images).double()).numpy()
    tolerance = min(max(PARITY, 4 * float(np.abs(single - exact).max())), WORST_PARITY)
    difference = float(np.abs(OnnxForward(graph, threads=1)(images) - single).max())
    if not difference <= tolerance:  # NaN is refused too
        raise UsageError(
            f"the exported model's scores differ from PyTorch's by {difference:.1e}, more than"
            f" {tolerance:.1e}: these weights can't be run with ONNX Runtime; set CXR_ENGINE=torch"
        )


def graph_of(module: nn.Module, weights: Weights, outputs: Sequence[str]) -> bytes:
    """Write a module that takes images as an ONNX graph, for batches of any size.

    Parameters
    ----------
    outputs
        Names of what the module returns, in order.
    """
    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        path = Path(directory) / "model.onnx"
        # dynamo=False is deprecated. The new exporter needs one more package and gains this graph nothing.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            module.eval(),
            (torch.zeros(2, 1, SIDE, SIDE),),
            path,
            input_names=["images"],
            output_names=list(outputs),
            dynamic_axes={name: {0: "n"} for name in ("images", *outputs)},
            opset_version=_OPSET,
            dynamo=False,
        )
        graph = onnx.load(path)
    onnx.helper.set_model_props(
        graph,
        {"weights_sha256": weights.sha256, "export_version": str(EXPORT_VERSION), "labels": "|".join(LABELS)},
    )
    onnx.checker.check_model(graph)
    return bytes(graph.SerializeToString())


if __name__ == "__main__":
    _, _path, _sha256, _cache = sys.argv
    try:
        export(Weights(Path(_path), _sha256, meaningful=True), Path(_cache))
    except UsageError as error:
        print(error, file=sys.stderr)  # noqa: T201 - for the process that started this one
        sys.exit(os.EX_USAGE)
