"""Weights for the tests: seeded ones, and the same in the format of the released file."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from worker.model.weights import Weights, locate

if TYPE_CHECKING:
    import torchxrayvision as xrv


def legacy_release(path: Path, seeded: Weights) -> str:
    """Write a whole pickled model in the legacy container, as torchxrayvision's release is one, and give its SHA-256.

    The container follows from the release's size, and from files written with the PyTorch of its time (1.2 to 1.4).
    """
    import torch

    with warnings.catch_warnings():
        # The container holds the source of the model's classes where it can be found.
        warnings.filterwarnings("ignore", "Couldn't retrieve source code", UserWarning)
        torch.save(densenet(seeded), path, _use_new_zipfile_serialization=False)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def densenet(weights: Weights) -> xrv.models.DenseNet:
    """Build torchxrayvision's model with seeded weights, by its own means only."""
    import torch

    from tests.support.spread_weights import reference

    model = reference().models.DenseNet(num_classes=18)
    model.load_state_dict(torch.load(weights.path, weights_only=True))
    return model.eval()


@pytest.fixture(scope="session")
def weights_cache(pytestconfig: pytest.Config) -> Path:
    """A cache for seeded weights, kept between test runs (it verifies itself)."""
    cache_provider: Any = pytestconfig.cache
    return Path(cache_provider.mkdir("weights"))


@pytest.fixture(scope="session")
def seeded(weights_cache: Path) -> Weights:
    """The seeded weights."""
    return locate("seeded", "", weights_cache, download=False)
