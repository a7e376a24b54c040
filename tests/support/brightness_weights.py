"""Weights whose class activation maps follow the brightness of the image: the evidence is where it is bright.

The network is torchxrayvision's DenseNet as it is. Its first convolution averages, one channel is carried through
every layer, the dense layers add zeros, and the classifier weighs that one channel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from backlog.model import LABELS
from tests.support.weights_fixture import densenet
from worker.model.weights import Weights


def brightness_weights(path: Path, seeded: Weights, slopes: Mapping[str, float]) -> Weights:
    """Write such weights and return them.

    Parameters
    ----------
    path
        Where the state dict is written.
    seeded
        Any weights of the network: they give its shapes.
    slopes
        How much brightness adds to a label's logit; the other labels score as in the dark. 1 is as much as a
        wholly bright image needs to come from 0 to 1.
    """
    import torch

    state = densenet(seeded).state_dict()
    for name, tensor in state.items():
        if name.endswith(("running_var", "norm0.weight")) or (".norm" in name and name.endswith("weight")):
            tensor.fill_(1)
        elif tensor.dtype.is_floating_point:
            tensor.zero_()
    state["features.conv0.weight"][0] = 1 / (49 * 1024)
    for number in (1, 2, 3):
        state[f"features.transition{number}.conv.weight"][0, 0] = 1
    for label, slope in slopes.items():
        state["classifier.weight"][LABELS.index(label), 0] = slope
    points = torch.tensor(np.array(seeded.model.points, np.float32))
    # In the dark every label scores a little under its operating point.
    state["classifier.bias"][:] = torch.logit(points * 0.9)
    torch.save(state, path)
    return Weights(path, hashlib.sha256(path.read_bytes()).hexdigest(), meaningful=True)
