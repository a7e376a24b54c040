"""PyTorch to ONNX with heat maps: run as ``python -m worker.model.grad_cam_export WEIGHTS SHA256 CACHE``.

The network ends in a mean over the last feature maps and one linear layer. For that architecture Grad-CAM
(Selvaraju et al. 2017) is the class activation map of Zhou et al. (2016) but for a factor: the gradient of a finding's
logit by a feature map is the classifier's weight over the number of cells, everywhere. So nothing has to be
differentiated, and the map is one more output of the forward pass.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import torch

from backlog.errors import UsageError
from worker.model.cache import write_atomically
from worker.model.onnx_export import compare, graph_of
from worker.model.torch_model import Scorer, reference
from worker.model.weights import MAPPING, Weights, export_name


class MappedScorer(Scorer):
    """Images to scores, and to where each finding's logit comes from."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]  # one more
        """Score images: (N, 18) scores and (N, 18, 7, 7) maps, whose mean and the bias are the logit."""
        activations = self.activations(images)
        weights = self.classifier.weight
        assert isinstance(weights, torch.Tensor)  # noqa: S101  # nn.Module types every attribute as either
        maps = torch.nn.functional.conv2d(activations, weights[:, :, None, None])
        return self.scores_of(activations), maps


def export(weights: Weights, cache: Path) -> Path:
    """Export verified weights with maps, compare the scores with PyTorch, and only then put it into the cache.

    Raises
    ------
    UsageError
        The weights can't be loaded, or the export's scores differ from PyTorch's.
    """
    model = reference(weights)
    graph = graph_of(MappedScorer(model), weights, ("scores", "maps"))
    compare(model, graph)
    path = cache / export_name(weights, hashlib.sha256(graph).hexdigest(), MAPPING)
    write_atomically(path, graph)
    return path


if __name__ == "__main__":
    _, _path, _sha256, _cache = sys.argv
    try:
        export(Weights(Path(_path), _sha256, meaningful=True), Path(_cache))
    except UsageError as error:
        print(error, file=sys.stderr)  # noqa: T201 - for the process that started this one
        sys.exit(os.EX_USAGE)
