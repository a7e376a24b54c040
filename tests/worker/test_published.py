"""The real weights give the scores that torchxrayvision publishes. Skipped where the real weights are not at hand."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from backlog.model import DEFAULT_MODEL, LABELS
from tests.support.cases import DATA
from tests.support.model_inputs import model_input
from worker.model.engine import load
from worker.model.weights import RELEASES, locate

pytestmark = pytest.mark.slow

#: Read here, before a fixture takes the user's settings out of the environment.
WEIGHTS = os.environ.get("CXR_WEIGHTS", "")


def test_the_published_scores_come_out_of_the_dicom_path(tmp_path: Path) -> None:
    published, image = (
        DATA / "published" / "torchxrayvision_readme.json",
        DATA / "cases" / "golden_00000001_000_8b.dcm",
    )
    if WEIGHTS in ("", "seeded") or not Path(WEIGHTS).is_file():
        pytest.skip("CXR_WEIGHTS names no file: the released weights are not at hand")
    if not (published.is_file() and image.is_file()):
        pytest.skip("the published outputs are missing: see CXR_TEST_DATA")
    weights = locate(WEIGHTS, "", tmp_path, download=False)
    assert weights.sha256 == RELEASES[DEFAULT_MODEL].sha256
    engine = load(weights, engine="onnxruntime", threads=1)
    scores = engine.scores(model_input(image.read_bytes()).image[None, None])[0]
    expected = json.loads(published.read_text())["00000001_000.png"]
    np.testing.assert_allclose(scores, [expected[label] for label in LABELS], atol=1e-3)
