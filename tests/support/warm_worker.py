"""A loaded model and a reader at work, for one test after another: each takes a second to start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from backlog.dicom.eligibility import Rules
from backlog.settings import Settings
from worker.model.engine import Engine, load
from worker.model.weights import Weights
from worker.reader.pool import Readers
from worker.tasks.resources import WorkerResources


@dataclass(frozen=True)
class WarmWorker:
    """What a worker keeps from one run to the next."""

    weights: Weights
    engine: Engine
    readers: Readers
    link: Path  #: to the folder of the test that has it now

    @property
    def pacs(self) -> Path:
        """The PACS of the reader's process, which reads its settings once."""
        return self.link / "pacs"

    @contextmanager
    def lent(self, process: WorkerResources, folder: Path) -> Iterator[None]:
        """Give all to a worker whose PACS is the folder ``pacs`` of a test's own folder."""
        self.link.symlink_to(folder)
        process.__dict__.update(weights=self.weights, engine=self.engine, _readers=self.readers)
        try:
            yield
        finally:
            held = process.__dict__.get("_readers")
            if held not in (None, self.readers):
                held.stop()
            self.link.unlink()


@contextmanager
def warm_worker(settings: Settings, folder: Path) -> Iterator[WarmWorker]:
    """Load the model of some settings, and keep a reader as long as tests ask."""
    resources = WorkerResources(settings)
    engine = load(resources.weights, engine=settings.engine, threads=settings.threads)
    readers = Readers(settings, Rules(), 1)
    try:
        yield WarmWorker(resources.weights, engine, readers, folder / "now")
    finally:
        readers.stop()
