"""Jobs as a producer writes them, for tests and benches that send their own."""

from __future__ import annotations

from backlog.broker.job import Job, SourceSpec
from backlog.dicom.eligibility import Rules
from backlog.model import PREPROCESSING


def a_job(
    run: str,
    source: SourceSpec | None = None,
    *,
    when: str = "2026-01-01T00:00:00+00:00",
    pacs: str = "",
    weights: str = "",
    meaningful: bool = True,
    regions: str = "none",
) -> Job:
    """Return the job of a run over images in an Orthanc, or over another source."""
    return {
        "run": run,
        "when": when,
        "source": source or {"kind": "orthanc", "path": "", "listing": ""},
        "pacs": pacs,
        "language": "en",
        "coding": "open",
        "regions": regions,
        "rules": Rules().spec(),
        "preprocessing": PREPROCESSING,
        "weights": weights,
        "meaningful": meaningful,
        "engine": "",
    }
