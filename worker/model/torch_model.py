"""Weights to PyTorch: torchxrayvision's networks, and the scorer made of their parts.

Importing this module imports PyTorch. A CPU worker never does: it runs the graph of `worker.model.network`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import torchvision
import torchxrayvision as xrv
from torch import nn

from backlog.errors import UsageError
from worker.model.network import read_state

if TYPE_CHECKING:
    from worker.model.weights import Weights


def network(weights: Weights) -> nn.Module:
    """Load verified weights into the network that torchxrayvision defines: float32, on the CPU, in eval mode.

    The file is read as `worker.model.torch_file` does: nothing that it names is run.

    Returns
    -------
    nn.Module
        With ``features``, which ends in (N, channels, side / 32, side / 32), and ``classifier``.

    Raises
    ------
    UsageError
        The file has another hash, is damaged, or holds another network.
    """
    state = {name: torch.from_numpy(np.array(array)) for name, array in read_state(weights).items()}
    resnet = weights.model.architecture == "resnet50"
    model: Any = _resnet50(weights) if resnet else xrv.models.DenseNet(num_classes=len(weights.model.points))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise UsageError(
            f"{weights.path} does not fit {weights.model.name}, a {weights.model.architecture} of"
            f" {len(weights.model.points)} labels. See CXR_MODEL and CXR_WEIGHTS"
        ) from error
    if resnet:
        parts = (model.conv1, model.bn1, model.relu, model.maxpool)
        model.features = nn.Sequential(*parts, model.layer1, model.layer2, model.layer3, model.layer4)
        model.classifier = model.fc
    return cast("nn.Module", model.eval())


def _resnet50(weights: Weights) -> nn.Module:
    """Build the network as torchxrayvision 1.5.7 does (models.py, ResNet), which can't without downloading weights."""
    model: Any = torchvision.models.resnet50(num_classes=len(weights.model.points), weights=None)
    model.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    return cast("nn.Module", model)


class Scorer(nn.Module):
    """The path from images to scores, without torchxrayvision's input checks and its masked assignments.

    Parameters
    ----------
    model
        From `network`.
    points
        The operating points; NaN for a label that the network was not trained on, whose score is NaN.
    features
        Stands in for the model's convolutions, at any precision.
    """

    points: torch.Tensor

    def __init__(
        self, model: nn.Module, points: tuple[float, ...], features: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.features = cast("nn.Module", model.features) if features is None else features
        self.classifier = cast("nn.Module", model.classifier)
        self.register_buffer("points", torch.tensor(points))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Score images: (N, 1, side, side) in [-1024, 1024] to (N, 18) in [0, 1].

        A probability at its operating point becomes 0.5; below and above it the scale is linear
        (torchxrayvision 1.5.7, ``models.op_norm``). The pooling and what follows are float32
        also where the features are half.
        """
        return self.scores_of(self.activations(images))

    def scores_and_maps(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Score images as `forward` does, with their class activation maps: (N, 18) and (N, 18, n, n)."""
        activations = self.activations(images)
        return self.scores_of(activations), self.maps_of(activations)

    def activations(self, images: torch.Tensor) -> torch.Tensor:
        """Return the last feature maps, after the rectifier."""
        return torch.relu(self.features(images))

    def maps_of(self, activations: torch.Tensor) -> torch.Tensor:
        """Weigh the last feature maps by the classifier: what each cell adds to a logit, times the number of cells."""
        weight = cast("nn.Linear", self.classifier).weight[:, :, None, None]
        return torch.nn.functional.conv2d(activations.to(weight.dtype), weight)

    def scores_of(self, activations: torch.Tensor) -> torch.Tensor:
        """Pool the last feature maps and score them: (N, 18)."""
        pooled = activations.to(self.points.dtype).mean((2, 3))
        probabilities = 1 / (1 + torch.exp(-self.classifier(pooled)))
        below = probabilities / (2 * self.points)
        above = 1 - (1 - probabilities) / (2 * (1 - self.points))
        return torch.where(probabilities < self.points, below, above)
