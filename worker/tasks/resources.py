"""What one worker process holds on to: its connections, its weights, its model, its readers."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from backlog.broker.claims import Claims
from backlog.broker.job import Job, model_of, preprocessing_of
from backlog.broker.pace import Pace
from backlog.dicom.eligibility import Rules
from backlog.errors import BacklogError, UsageError
from backlog.model import MODELS, PREPROCESSING
from backlog.pacs.base import Pacs
from backlog.pacs.concurrency_limit import PacsConcurrencyLimit
from backlog.pacs.connect import connect
from backlog.pacs.limited_pacs import LimitedPacs, limited, modality_slots
from backlog.processes import cores
from backlog.settings import Settings
from backlog.weights import expected_sha256

if TYPE_CHECKING:
    from backlog.pacs.modality import Modality
    from worker.model.engine import Engine
    from worker.model.weights import Weights
    from worker.reader.pool import Readers
    from worker.reader.same_pixels import PixelComparison


@dataclass
class WorkerResources:
    """What one worker process holds on to, made when first needed."""

    settings: Settings
    proved: dict[str, float] = field(
        default_factory=dict, init=False
    )  #: when a modality was last, by the run
    _modality_limits: dict[tuple[str, str], PacsConcurrencyLimit] = field(default_factory=dict, init=False)

    @cached_property
    def claims(self) -> Claims:
        """Leases and records, in Redis."""
        return Claims(self.settings.broker, lease_seconds=self.settings.lease_seconds)

    @cached_property
    def pacs(self) -> Pacs:
        """The PACS of this worker's settings."""
        if not self.settings.pacs_url:
            raise UsageError("CXR_PACS_URL is not set: this worker knows no PACS")
        return limited(connect(self.settings), self.settings)

    def modality(self, name: str) -> Modality:
        """Return a DICOM modality that this worker's PACS, an Orthanc, knows.

        Raises
        ------
        UsageError
            The PACS is no Orthanc.
        """
        from backlog.pacs.modality import Modality
        from backlog.pacs.orthanc import Orthanc

        pacs = self.pacs.pacs if isinstance(self.pacs, LimitedPacs) else self.pacs
        if not isinstance(pacs, Orthanc):
            raise UsageError(
                "this worker's CXR_PACS_URL leads to no Orthanc, through which a modality is asked"
            )
        s = self.settings
        return Modality(pacs, name, seconds=s.pacs_seconds, method=s.retrieve_method)

    def modality_limit(self, name: str, what: str = "move") -> PacsConcurrencyLimit:
        """Return the slots for what a modality sends (``move``) or takes (``store``), over all workers."""
        if (name, what) not in self._modality_limits:
            limit = modality_slots(self.claims.broker, self.settings, self.settings.pacs_url, name, what)
            self._modality_limits[name, what] = limit
        return self._modality_limits[name, what]

    def pace(self, name: str) -> Pace:
        """Return how fast a modality is asked for images, by all workers together."""
        return Pace(self.claims.broker, self.modality_limit(name).name, self.settings.retrieve_per_minute)

    @cached_property
    def pacs_identity(self) -> str:
        """Tells this worker's PACS from another."""
        return self.pacs.identity()

    @cached_property
    def weights(self) -> Weights:
        """The verified weights."""
        from worker.model.weights import locate  # only inference and report need them

        s = self.settings
        return locate(s.weights, s.weights_sha256, s.cache_folder, download=False, model=s.model)

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of this worker's weights by its settings, without their file; empty where they leave it open."""
        s = self.settings
        return expected_sha256(s.weights, s.weights_sha256, s.model)

    @cached_property
    def engine(self) -> Engine:
        """The model, loaded."""
        from worker.model.engine import load  # takes a second

        threads = self.settings.threads or cores()
        return load(self.weights, engine=self.settings.engine, threads=threads)

    @property
    def computes_with_onnx_runtime(self) -> bool:
        """Whether the model is loaded, and ONNX Runtime computes it: on the CPU, in memory that can be bounded."""
        return "engine" in self.__dict__ and self.engine.name == "onnxruntime"

    def readers(self, job: Job) -> Readers:
        """Return the readers, told a run's rules and a chunk's turn at the PACS; the same processes for every run."""
        self._readers.rules = Rules.from_spec(job["rules"])
        if isinstance(self.pacs, LimitedPacs):
            self._readers.follow(self.pacs.limit)
        return self._readers

    @cached_property
    def _readers(self) -> Readers:
        from worker.reader.pool import Readers, how_many

        return Readers(self.settings, Rules(), how_many(self.settings))

    def same_pixels(self, ours: bytes, held: bytes) -> bool:
        """Whether two files have the same pixels, decoded. Raises as `PixelComparison.same`."""
        return self._pixel_comparison.same(ours, held)

    @cached_property
    def _pixel_comparison(self) -> PixelComparison:
        from worker.reader.same_pixels import PixelComparison  # only where a PACS transcodes

        return PixelComparison(self.settings)

    def warm_up(self) -> None:
        """Load the model and start the readers before the first chunk comes; a failure is the first task's to tell."""
        with suppress(BacklogError):
            self._readers.launch()  # the two start side by side
            import numpy as np  # the upload and report workers have none; its threads come with its first use

            side = MODELS[self.settings.model].side
            self.engine.scores(np.zeros((1, 1, side, side), np.float32))
            self._readers.start()

    def slot_wait(self) -> float:
        """Return how many seconds this process and its readers have waited for slots at the PACS."""
        made = self.__dict__  # what was never needed has waited for nothing
        waited = made["_readers"].waited if "_readers" in made else 0.0
        limit = getattr(made.get("pacs"), "limit", None)
        waited += sum(one.waited for one in self._modality_limits.values())
        return float(waited + (limit.waited if limit else 0.0))

    def check(self, job: Job) -> None:
        """Refuse a run that this worker would do wrongly.

        Raises
        ------
        UsageError
            Its PACS or its weights are not this worker's.
        """
        for stale in (True, False):
            own = self.pacs_identity
            if not job["pacs"] or own in ("", job["pacs"]) or own == self.claims.pacs(job["run"]):
                return
            if stale:
                del self.pacs_identity  # a PACS that was created again may have another since it was asked
        raise UsageError("this worker's CXR_PACS_URL leads to another PACS than the run's")

    def check_weights(self, job: Job) -> None:
        """Refuse a run of another model, weights or preprocessing version: its scores would not be one table.

        Raises
        ------
        UsageError
            See above.
        """
        if (model := model_of(job).name) != self.settings.model:
            raise UsageError(f"this worker's CXR_MODEL is {self.settings.model}, and the run's is {model}")
        if (version := preprocessing_of(job)) != PREPROCESSING:
            raise UsageError(
                f"this worker prepares images by preprocessing version {PREPROCESSING}, and the run began with version"
                f" {version}: end the run with the program that it began with, or begin a new run"
            )
        if job["weights"] and job["weights"] != self.weights.sha256:
            raise UsageError("this worker's weights are not those that the run began with: see CXR_WEIGHTS")
