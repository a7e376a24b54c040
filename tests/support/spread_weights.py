"""Seeded weights whose scores are spread, so that a wrong pixel shows.

A freshly seeded network gives nearly the same score for every image: a reader that is wrong would pass.
Here the batch norms' statistics and the head are fitted to pictures, real ones where they are at hand and
distortions of them, until every finding's scores spread over them. The scores still mean nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Standard deviation of a finding's logits over the undistorted pictures. Operating points lie as low as
#: 0.002, and above one a score only moves as far as its probability does.
_SPREAD = 3.0
_SEED = 20


def reference() -> Any:
    """Import torchxrayvision, which silences every warning of the process when it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torchxrayvision
        import torchxrayvision.models
    return torchxrayvision


def distorted(images: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return (N, 1, 224, 224): the images as they are, then half as bright, inverted, and wrapped around."""
    shares = [(image + 1024) / 2048 for image in images]
    seen = [*shares]
    seen += [wrong for share in shares for wrong in (share / 2, 1 - share, share * 2 % 1)]
    return np.asarray(np.stack(seen)[:, None] * 2048 - 1024, np.float32)


def spread_model(images: Sequence[NDArray[np.float32]], cache: Path) -> Any:
    """Return torchxrayvision's DenseNet-121 with weights fitted to some images.

    Parameters
    ----------
    images
        Each (224, 224) in [-1024, 1024].
    cache
        Where the fitted state is kept for the next time.
    """
    import torch

    xrv = reference()
    torch.manual_seed(_SEED)
    thresholds = xrv.models.model_urls["densenet121-res224-all"]["op_threshs"]
    model = xrv.models.DenseNet(weights=None, op_threshs=torch.tensor(thresholds))
    pictures = torch.from_numpy(distorted(images))
    kept = cache / f"spread-{_SEED}-{len(pictures)}-{int(pictures.double().sum().item())}.pt"
    if kept.is_file():
        model.load_state_dict(torch.load(kept, weights_only=True))
        return model.eval()
    _fit(model, pictures, len(images), torch.logit(torch.tensor(thresholds)))
    torch.save(model.state_dict(), kept)
    return model


def _fit(model: Any, pictures: Any, undistorted: int, middle: Any) -> None:
    import torch

    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = None  # statistics of everything seen since, not a moving average
            norm.reset_running_stats()
        model.train()
        for part in pictures.split(24):
            model.features(part)
        model.eval()
        features = torch.cat([model.features2(part) for part in pictures.split(24)])
        # Directions in which the pictures really differ, so that 18 findings don't all see brightness.
        real = features[:undistorted]
        centred = torch.cat([real - real.mean(0), features - features.mean(0)])
        directions = torch.linalg.svd(centred, full_matrices=False).Vh[:12]
        mixed = torch.randn(len(middle), len(directions)) @ directions
        mixed *= (_SPREAD / (real @ mixed.T).std(0))[:, None]
        model.classifier.weight.copy_(mixed)
        model.classifier.bias.copy_(middle + _SPREAD / 2 - mixed @ real.mean(0))
