"""From a verified weights file to the network's graph, and the check that it computes what the network defines.

The graph is built from the weights whenever a process loads the model, which takes a fifth of a second. It is never
read from a file: who may write into the cache can't change a score.
"""

from __future__ import annotations

import hashlib
import platform
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from backlog.errors import UsageError
from backlog.log import event
from worker.model.densenet import densenet_graph
from worker.model.exact import exact_scores
from worker.model.layers import DoesNotFit
from worker.model.resnet import resnet_graph
from worker.model.torch_file import read_torch_file
from worker.model.torch_pickle import NotATorchFile
from worker.model.weights import read_verified

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from worker.model.weights import Weights


_BUILDERS: Final = {"densenet121": densenet_graph, "resnet50": resnet_graph}
#: A graph's scores equal the exact ones to this.
PARITY: Final = 1e-5
#: No graph departs further than this, whatever single precision itself loses: the promise made for every score.
WORST_PARITY: Final = 1e-4
#: Inputs lie within ±1024 (torchxrayvision 1.5.7, ``utils.normalize``).
LIMIT: Final = 1024.0


def read_state(weights: Weights) -> dict[str, NDArray[Any]]:
    """Read the tensors of a weights file; the bytes that are read are hashed first.

    Raises
    ------
    UsageError
        The file has another hash, is damaged, holds no network, or has other operating points.
    """
    try:
        found = read_torch_file(read_verified(weights.path, weights.sha256))
    except NotATorchFile as error:
        raise UsageError(
            f"{weights.path} has the expected hash but is not a readable PyTorch file: {error}. Replace it, or"
            " save its state_dict() with a current PyTorch"
        ) from error
    state = dict(found.tensors)
    points = state.pop("op_threshs", None)  # in the state dict of a model that torchxrayvision loaded
    if points is not None and not np.array_equal(
        points.astype(np.float32), np.array(weights.model.points, np.float32), equal_nan=True
    ):
        raise UsageError(
            f"{weights.path} holds other operating points: it is not {weights.model.name}, see CXR_MODEL"
        )
    return state


def build_graph(weights: Weights) -> bytes:
    """Build the ONNX graph of verified weights.

    Returns
    -------
    bytes
        See `worker.model.layers.Layers.finish`.

    Raises
    ------
    UsageError
        The weights can't be read or are those of another network.
    """
    state = read_state(weights)
    try:
        return _BUILDERS[weights.model.architecture](state, weights.model.points, weights.model.side)
    except DoesNotFit as error:
        raise UsageError(
            f"{weights.path} does not fit {weights.model.name}, a {weights.model.architecture} of"
            f" {len(weights.model.points)} labels: {error}. {_described(state)}. See CXR_MODEL and CXR_WEIGHTS"
        ) from error


def _described(state: Mapping[str, NDArray[Any]]) -> str:
    """Say what a file holds instead."""
    if not state:
        return "It holds no tensor"
    first, last = next(iter(state)), next(reversed(list(state)))
    named = (f"{ascii(name)[1:-1][:60]} of {'×'.join(map(str, state[name].shape))}" for name in (first, last))
    return f"It holds {len(state)} tensors, from {' to '.join(named)}"


def check_scores(
    weights: Weights, score: Callable[[NDArray[np.float32]], NDArray[np.float32]], cache: Path
) -> None:
    """Compare the graph's scores, on this machine, with a computation in double precision that shares no code with it.

    It takes seconds, so what has passed is noted in the cache, by the weights, this program and the runtime. The note
    saves the time and decides nothing else.

    Parameters
    ----------
    weights
        The verified weights that the graph was built from.
    score
        Images to scores, by the graph.
    cache
        Where the note is kept, if it can be written.

    Raises
    ------
    UsageError
        They differ by more than `PARITY`, or by more than four times what single precision loses where that is more.
    """
    if was_checked(weights, cache):
        return
    state = read_state(weights)
    images = sample_images(weights.model.side)
    points = weights.model.points
    exact = exact_scores(state, points, images)
    difference = _difference(score(images), exact)
    tolerance = PARITY
    if not difference <= tolerance:  # NaN is refused too
        # Two programs in single precision can't agree better than either agrees with the exact result.
        single = _difference(exact_scores(state, points, images, np.float32), exact)
        tolerance = min(max(PARITY, 4 * single), WORST_PARITY)
    if not difference <= tolerance:
        raise UsageError(
            f"the scores of {weights.path} by ONNX Runtime differ from the exact ones by {difference:.1e}, more than"
            f" {tolerance:.1e}: these weights can't be run on this machine; set CXR_ENGINE=torch or use another"
        )
    event("model.checked", difference=f"{difference:.1e}")
    with suppress(OSError):  # a cache that can't be written costs the check each time
        _note(weights, cache).touch()


def was_checked(weights: Weights, cache: Path) -> bool:
    """Whether `check_scores` has passed on this machine, by the same weights, program and runtime.

    Parameters
    ----------
    weights
        The verified weights.
    cache
        Where the note was kept.
    """
    try:
        return _note(weights, cache).exists()
    except metadata.PackageNotFoundError:
        return False  # without ONNX Runtime nothing was


def _note(weights: Weights, cache: Path) -> Path:
    return cache / f"{_digest(weights)}.checked"


def _digest(weights: Weights) -> str:
    """Return a hash of all that the graph and its scores are made by."""
    parts = [weights.sha256, weights.model.name, metadata.version("onnxruntime"), platform.machine()]
    parts += [
        hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(Path(__file__).parent.glob("*.py"))
    ]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _difference(scores: NDArray[Any], exact: NDArray[Any]) -> float:
    """Return the largest difference; NaN where only one of the two has no score."""
    trained = ~np.isnan(exact)
    if not np.array_equal(trained, ~np.isnan(scores)):
        return float("nan")
    return float(np.abs(scores - exact, where=trained, out=np.zeros_like(exact)).max())


def sample_images(side: int) -> NDArray[np.float32]:
    """Give images for comparing two forms of the model: (3, 1, side, side) float32 in [-1024, 1024].

    A slope, a bright disc on a dark ground, and noise.
    """
    ramp = np.linspace(-LIMIT, LIMIT, side, dtype=np.float32)
    y, x = np.meshgrid(ramp, ramp, indexing="ij")
    disc = np.where(np.hypot(x, y) < LIMIT / 2, LIMIT / 2, -LIMIT / 2)
    noise = (np.random.default_rng(0).random((side, side)) - 0.5) * LIMIT
    return np.stack([(y + x) / 2, disc, noise]).astype(np.float32)[:, None]
