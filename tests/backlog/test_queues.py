"""Queues: which messages go where."""

from __future__ import annotations

from backlog.broker.messages import Stage
from backlog.broker.queues import base_of, queue_for, queue_of, queues_of, stages_of
from backlog.model import DEFAULT_MODEL
from backlog.weights import RELEASE_SHA256, SEEDED_SHA256, expected_sha256, is_seeded, settings_for
from tests.support.jobs import a_job

SEEDED = SEEDED_SHA256[DEFAULT_MODEL]
RELEASED = RELEASE_SHA256[DEFAULT_MODEL]


def test_only_what_needs_the_model_is_told_apart_by_weights() -> None:
    assert queues_of(a_job("run1", weights=SEEDED)) == {
        Stage.INFER: "inference.29a0a7699382",
        Stage.REPORT: "report",
    }
    assert list(queues_of(a_job("run1"), Stage.INFER).values()) == ["inference", "report"]


def test_a_picture_beside_the_report_needs_no_model() -> None:
    job = a_job("run1", weights=RELEASED)
    assert queue_of(Stage.REPORT, {**job, "derived_objects": ["capture", "pdf"]}) == "report"


def test_a_queue_is_known_by_its_stage() -> None:
    assert base_of(queue_for("inference", SEEDED)) == base_of("inference") == "inference"
    assert stages_of(["upload", "inference", "inference.29a0a7699382"]) == {"upload", "inference"}


def test_settings_say_which_weights_a_worker_has() -> None:
    assert expected_sha256("", "", DEFAULT_MODEL) == RELEASED
    assert expected_sha256("seeded", "", DEFAULT_MODEL) == SEEDED
    assert expected_sha256("/models/ours.pt", " AB" + "cd" * 31 + "\n", DEFAULT_MODEL) == "ab" + "cd" * 31
    assert expected_sha256("", "", "densenet121-res224-nih") == "", "nobody states its hash"
    assert is_seeded(SEEDED)
    assert not is_seeded(RELEASED)


def test_settings_are_named_that_lead_to_some_weights() -> None:
    nih = "densenet121-res224-nih"
    assert settings_for(RELEASED, DEFAULT_MODEL) == ""
    assert settings_for(SEEDED, DEFAULT_MODEL) == "CXR_WEIGHTS=seeded"
    assert settings_for(SEEDED_SHA256[nih], nih) == f"CXR_MODEL={nih} CXR_WEIGHTS=seeded"
    assert settings_for("ab" * 32, DEFAULT_MODEL) == f"CXR_WEIGHTS_SHA256={'ab' * 32}"
