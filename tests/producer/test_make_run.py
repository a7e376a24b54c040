"""What a new run is begun with."""

from __future__ import annotations

from typing import cast

import pytest

from backlog.broker.job import Job, preprocessing_of
from backlog.errors import UsageError
from backlog.model import PREPROCESSING
from producer.run.make_run import prepared_anew
from tests.support.jobs import a_job

POINTS = {"operating_points": {"sha256": "ab" * 32, "thresholds": {"Mass": 0.4}}}


def test_a_run_behind_another_prepares_images_as_this_program() -> None:
    earlier: Job = a_job("run1") | {"preprocessing": "0"}
    assert prepared_anew(earlier) == earlier | {"preprocessing": PREPROCESSING}


def test_points_do_not_pass_to_another_preprocessing_version() -> None:
    earlier = cast("Job", a_job("run1") | POINTS)
    assert prepared_anew(earlier) == earlier
    with pytest.raises(UsageError, match="operating points of this run are for preprocessing version 0"):
        prepared_anew(earlier | {"preprocessing": "0"})


def test_a_run_of_an_earlier_program_has_version_three() -> None:
    job = a_job("run1")
    del job["preprocessing"]  # type: ignore[misc]
    assert preprocessing_of(job) == "3"
