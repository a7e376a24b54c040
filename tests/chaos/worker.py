"""The workers' application with another model: ``celery -A tests.chaos.worker worker``.

Everything else is what ``worker.main`` sets up: its tasks, its signals, its reader process.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.chaos.images import ENGINE, Kind, number_in, scores_for
from worker.model.engine import Engine, Evaluation
from worker.model.weights import Weights
from worker.tasks import registry as tasks


@dataclass(frozen=True)
class Model:
    """Scores made of the number in the picture; two kinds of pictures are poison to it."""

    name: str = os.environ.get(ENGINE, "chaos")
    batch: int = 8
    evaluated: tuple[bool, ...] = (True,) * 18

    def scores(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, 1, 224, 224) → (N, 18)."""
        seen = [number_in(image[0]) for image in images]
        for _, kind in seen:
            if kind is Kind.KILLER:
                os.kill(os.getpid(), signal.SIGKILL)
            if kind is Kind.GREEDY:
                raise MemoryError
        return np.array([scores_for(number) for number, _ in seen], np.float32)

    def evaluate(self, images: NDArray[np.float32]) -> Evaluation:
        """The scores, from everywhere alike."""
        scores = self.scores(images)
        return Evaluation(scores, np.ones((*scores.shape, 7, 7), np.float32))


class WorkerResources(tasks.WorkerResources):
    """A worker process that needs no weights; it has those that CXR_WEIGHTS_SHA256 names."""

    @cached_property
    def weights(self) -> Weights:
        return Weights(Path("none"), self.settings.weights_sha256 or "c" * 64, meaningful=False)

    @property
    def weights_sha256(self) -> str:
        return self.weights.sha256

    @cached_property
    def engine(self) -> Engine:
        return Model()


tasks.WorkerResources = WorkerResources  # type: ignore[misc]  # before worker.main hands it to the tasks

from worker.main import app  # noqa: E402

__all__ = ["app"]
