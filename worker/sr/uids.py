"""UIDs that follow from what a report is made of, so that building it twice gives one object, not two."""

from __future__ import annotations

from typing import Final

from backlog.report_uids import SCHEMA, derived_uid, report_and_series_uid
from worker.sr.inputs import Model, Options

#: Raise when the derived objects' layout changes (worker/derived/): the same for them.
DERIVED_SCHEMA: Final = "1"


def report_uid(source_sop_instance_uid: str, model: Model, options: Options) -> str:
    """Return the SOP Instance UID of the report of one image; needs neither the image nor its header.

    Parameters
    ----------
    source_sop_instance_uid
        Of the image.
    model
        What scored the image.
    options
        What the report's content depends on beside image and model.
    """
    return _uids(source_sop_instance_uid, model, options)[0]


def series_uid(source_sop_instance_uid: str, model: Model, options: Options) -> str:
    """Return the Series Instance UID of the report: one series each, as OHIF shows one SR of a series.

    Parameters
    ----------
    source_sop_instance_uid
        Of the image.
    model
        What scored the image.
    options
        What the report's content depends on beside image and model.
    """
    return _uids(source_sop_instance_uid, model, options)[1]


def _uids(source_sop_instance_uid: str, model: Model, options: Options) -> tuple[str, str]:
    return report_and_series_uid(
        source_sop_instance_uid,
        model=model.name,
        weights_sha256=model.weights_sha256,
        preprocessing=model.preprocessing,
        language=options.language,
        coding=options.coding,
        iod=options.iod,
        operating_points_sha256=options.operating_points.sha256 if options.operating_points else "",
        regions=options.regions,
    )


def derived_object_uid(kind: str, report_sop_instance_uid: str) -> str:
    """Return the SOP Instance UID of a derived object of a report."""
    return derived_uid("companion", kind, DERIVED_SCHEMA, report_sop_instance_uid)


def derived_series_uid(kind: str, report_sop_instance_uid: str) -> str:
    """Return the Series Instance UID of a derived object: one series each, as the report has."""
    return derived_uid("companion series", kind, DERIVED_SCHEMA, report_sop_instance_uid)


def device_uid(model: Model) -> str:
    """Return the UID of the observer: this software with these weights."""
    return derived_uid("device", model.name, model.weights_sha256, model.preprocessing, SCHEMA)


def tracking_uid(report_sop_instance_uid: str, label: str) -> str:
    """Return the Tracking Unique Identifier of one finding of one report."""
    return derived_uid("tracking", report_sop_instance_uid, label)
