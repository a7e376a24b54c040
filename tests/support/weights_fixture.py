"""Weights for the tests: seeded ones with their export, and the same in the format of the released file."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from worker.model.weights import Weights, exported, locate

if TYPE_CHECKING:
    import torchxrayvision as xrv


def released_format(path: Path, seeded: Weights) -> str:
    """Write a whole pickled model, as torchxrayvision's release is one, and give the file's SHA-256."""
    import hashlib

    import torch

    torch.save(densenet(seeded), path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def densenet(seeded: Weights) -> xrv.models.DenseNet:
    """Build torchxrayvision's model with the seeded weights, by its own means only."""
    import torch
    import torchxrayvision as xrv

    model = xrv.models.DenseNet(num_classes=18)
    model.load_state_dict(torch.load(seeded.path, weights_only=True))
    return model.eval()


@cache
def seeded_cache(cache_dir: Path) -> Path:
    """Fill a cache with the seeded weights and their export. PyTorch takes about 40 s for both."""
    exported(locate("seeded", "", cache_dir, download=False), cache_dir)
    return cache_dir


@pytest.fixture(scope="session")
def weights_cache(pytestconfig: pytest.Config) -> Path:
    """A cache that holds the seeded weights and their export, kept between test runs (it verifies itself)."""
    if importlib.util.find_spec("torchxrayvision") is None:  # importing it here would take ten seconds
        pytest.skip("making the seeded weights needs cxr-backlog[model]")
    cache_provider: Any = pytestconfig.cache
    return seeded_cache(Path(cache_provider.mkdir("weights")))


@pytest.fixture(scope="session")
def seeded(weights_cache: Path) -> Weights:
    """The seeded weights."""
    return locate("seeded", "", weights_cache, download=False)
