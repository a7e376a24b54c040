"""UIDs that follow from what a report is made of, so that building it twice gives one object, not two."""

from __future__ import annotations

import json
import uuid
from typing import Final

from backlog.model import PREPROCESSING
from worker.sr.inputs import Model, Options

#: Raise when a report's layout or codes change: old and new reports then stand side by side.
SCHEMA: Final = "1"
#: Raise when the derived objects' layout changes (worker/derived/): the same for them.
DERIVED_SCHEMA: Final = "1"
#: The root of every derived UID. Changing it would write every report of the past a second time.
_NAMESPACE: Final = uuid.UUID("c08cbe69-5d45-428c-9249-1602551b7649")


def derived_uid(kind: str, *parts: str) -> str:
    """Return a UID under ``2.25`` (PS3.5 section B.2) that depends on nothing but the arguments.

    JSON keeps the parts apart: ``("a", "bc")`` and ``("ab", "c")`` give different UIDs.
    """
    canonical = json.dumps([kind, *parts], separators=(",", ":"), ensure_ascii=True)
    return f"2.25.{uuid.uuid5(_NAMESPACE, canonical).int}"


def _made_by(model: Model, options: Options) -> tuple[str, ...]:
    return (
        model.name,
        model.weights_sha256,
        PREPROCESSING,
        SCHEMA,
        options.language,
        options.coding,
        options.iod,
    )


def report_uid(source_sop_instance_uid: str, model: Model, options: Options) -> str:
    """Return the SOP Instance UID of the report of one image; needs neither the image nor its header."""
    return derived_uid("sr", source_sop_instance_uid, *_made_by(model, options))


def series_uid(source_sop_instance_uid: str, model: Model, options: Options) -> str:
    """Return the Series Instance UID of the report: one series each, as OHIF shows one SR of a series."""
    return derived_uid("series", source_sop_instance_uid, *_made_by(model, options))


def derived_object_uid(kind: str, report_sop_instance_uid: str) -> str:
    """Return the SOP Instance UID of a derived object of a report."""
    return derived_uid("companion", kind, DERIVED_SCHEMA, report_sop_instance_uid)


def derived_series_uid(kind: str, report_sop_instance_uid: str) -> str:
    """Return the Series Instance UID of a derived object: one series each, as the report has."""
    return derived_uid("companion series", kind, DERIVED_SCHEMA, report_sop_instance_uid)


def device_uid(model: Model) -> str:
    """Return the UID of the observer: this software with these weights."""
    return derived_uid("device", model.name, model.weights_sha256, PREPROCESSING, SCHEMA)


def tracking_uid(report_sop_instance_uid: str, label: str) -> str:
    """Return the Tracking Unique Identifier of one finding of one report."""
    return derived_uid("tracking", report_sop_instance_uid, label)
