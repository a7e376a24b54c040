"""What a run may store beside its reports: a picture, and the report as a PDF, for viewers that show no SR.

Off by default, and then this module isn't even imported. A derived object comes after its report is in the PACS: one
that can't be made costs neither the report nor the run, and its reason is kept with the item.

The picture needs the pixels again. They are decoded where all pixels are, in the reader's own process
(``worker/reader/client.py``). Its heat map is the one that came with the scores: neither model nor weights are needed.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from datetime import datetime
from functools import cache, partial
from typing import TYPE_CHECKING

from backlog.broker.job import Job
from backlog.broker.messages import DerivedRecord, ReportItem, numbers
from backlog.dicom.comparison import Comparison, compare
from backlog.dicom.file import DicomFile
from backlog.errors import BacklogError, InstanceRejected, ServiceUnavailable, UsageError
from backlog.log import event, where
from backlog.outcomes import Flag, Reason
from backlog.settings import DERIVED_OBJECTS
from worker.derived import dicom as derived_dicom
from worker.derived.libraries import kinds_made_here
from worker.sr.content import ReportContent, report_content
from worker.sr.inputs import Model, Options
from worker.sr.source_header import SourceHeader
from worker.tasks.evidence import drawn_regions, maps_of
from worker.tasks.resources import WorkerResources
from worker.tasks.withdraw import withdraw

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def need(job: Job) -> None:
    """Refuse a run whose derived objects this worker can't make, before it writes anything.

    Raises
    ------
    UsageError
        A library is missing, or the run asks for a kind that this version doesn't know.
    """
    kinds = job.get("derived_objects", [])
    if not set(kinds) <= set(DERIVED_OBJECTS):
        raise UsageError("the run asks for derived objects that this worker doesn't know: update it")
    missing = sorted(set(kinds) - set(kinds_made_here()))
    if missing:
        raise UsageError(
            f"this report worker cannot make {', '.join(missing)}: install cxr-backlog[codecs,derived],"
            " or run without"
        )


def write(
    process: WorkerResources, job: Job, item: ReportItem, source: SourceHeader, model: Model, options: Options
) -> list[DerivedRecord]:
    """Make and store what the run asks for beside one report; return what became of each.

    Parameters
    ----------
    process
        What this worker process holds: PACS, engine, settings.
    job
        The run, as its messages carry it.
    item
        The scored image.
    source
        What the report took of the image's header.
    model
        What scored the image.
    options
        What the report's content depends on beside image and model.

    Raises
    ------
    ServiceUnavailable, UsageError
        The PACS is unavailable or refuses us. Again from the beginning: what is stored already is found and counts.
    """
    said = report_content(
        source,
        numbers(item["scores"]),
        [Flag(name) for name in item["flags"]],
        model=model,
        options=options,
        when=datetime.fromisoformat(job["when"]),
        regions=drawn_regions(job, item),
    )
    drawn = cache(partial(_drawn, process, job, item, said))  # once, whatever shows it
    return [_write(process, item, said, kind, drawn) for kind in job.get("derived_objects", [])]


def _write(
    process: WorkerResources,
    item: ReportItem,
    said: ReportContent,
    kind: str,
    drawn: Callable[[], NDArray[np.uint8]],
) -> DerivedRecord:
    try:
        if kind == "capture":
            dicom = derived_dicom.capture(said, drawn())
        else:
            dicom = _document(said, kind, drawn() if kind == "pdf-picture" else None)
        instance, held, ours = _stored(process, dicom)
    except InstanceRejected as rejected:
        return {"kind": kind, "reason": rejected.reason.value, "detail": rejected.detail}
    except BacklogError:
        raise
    except MemoryError:
        return {"kind": kind, "reason": Reason.OUT_OF_MEMORY.value, "detail": "more than this worker has"}
    except Exception as error:  # noqa: BLE001  # the report is stored: a bug here costs the derived object alone
        event("derived_object.failed", logging.ERROR, error=where(error), item=item["i"])
        return {"kind": kind, "reason": Reason.INTERNAL_ERROR.value, "detail": where(error)}
    return {
        "kind": kind,
        "sop_instance_uid": derived_dicom.uid(said, kind),
        "instance": instance,
        "sha256": hashlib.sha256(held).hexdigest(),
        "ours": ours,
    }


def _stored(process: WorkerResources, dicom: bytes) -> tuple[str, bytes, bool]:
    """Store a derived object; return the PACS's id, what it holds under it, and whether that is ours."""
    pacs = process.pacs
    file = DicomFile(dicom)
    stored = pacs.store(dicom, file.identity)
    if not stored.already and stored.instance != pacs.expected_id(file.identity):
        raise InstanceRejected(
            Reason.REFUSED,
            f"the PACS stored it under other identifiers; {withdraw(pacs, stored.instance)}",
        )
    held = pacs.fetch(stored.instance)
    # The run's time stands in the header; pixels that a PACS has compressed are those that were sent.
    ours = held == dicom or compare(file.parsed, DicomFile(held).parsed) is not Comparison.DIFFERENT
    if not ours and not stored.already:
        raise InstanceRejected(
            Reason.REPORT_CONFLICT,
            f"the PACS changed the derived object while storing it; {withdraw(pacs, stored.instance)}",
        )
    return stored.instance, held, ours


def _document(said: ReportContent, kind: str, picture: NDArray[np.uint8] | None) -> bytes:
    from worker.derived.pdf import write_pdf

    return derived_dicom.document(said, write_pdf(said, picture), kind)


def _drawn(process: WorkerResources, job: Job, item: ReportItem, said: ReportContent) -> NDArray[np.uint8]:
    from worker.derived.capture import SIDE, draw  # Pillow
    from worker.reader.protocol import RejectedImage

    maps = maps_of(item)
    (picture,) = list(process.readers(job).read([item["instance"]], SIDE))
    if isinstance(picture, RejectedImage):
        raise picture.rejection
    if picture.shown is None:
        raise ServiceUnavailable("the reader is of an older version")
    if picture.sop_instance_uid != said.source.sop_instance_uid:
        raise InstanceRejected(
            Reason.REPORT_CONFLICT, "the picture is not of the image that the report is of"
        )
    return draw(said, picture.shown, maps)
