"""The scores, by the reference's own code and by ours, over all cases."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from backlog.errors import InstanceRejected
from tests.support.cases import case, dicom_cases, needs_data
from tests.support.model_inputs import model_input
from tests.support.spread_weights import distorted, reference, spread_model
from worker.model.engine import load
from worker.model.weights import Weights

pytestmark = [
    needs_data,
    # torchxrayvision announces the inversion that is asked of it, with the file's path in the text.
    pytest.mark.filterwarnings("ignore:Converting MONOCHROME1 to MONOCHROME2:UserWarning"),
    # pydicom about values above BitsStored in compressed streams, on the reference's path.
    pytest.mark.filterwarnings("ignore:.*[Bb]its [Ss]tored:UserWarning"),
]

#: The most that two scores may differ where the reference is right.
TOLERANCE = 1e-4
#: Where the reference is wrong, refuses, or has nothing to say; docs/pixels.md tells why for each.
REFERENCE_WRONG = {
    "exceed2x_mono2_12b_explicit",  # wraps around
    "exceed2x_mono1_12b_explicit",
    "exceed2x_mono2_12b_implicit",
    "modality_lut",  # not applied
    "presentation_lut_inverse_mono2",  # not inverted
}
REFERENCE_REFUSES = {
    "exceed2x_mono2_12b_j2k_lossless",
    "exceed2x_mono2_12b_jpegls",
    "rgb_grey_sc",
}
REJECTED = {"constant_zero", "constant_saturated", "tiny_1x1", "multiframe_2"}

#: The different pictures among the cases.
PICTURES = [
    "ok_mono2_12b_explicit",
    "hannover_ap_cr_10b_jpegls",
    "nih_cardiomegaly_effusion_dx_16b_explicit",
    "golden_00000001_000_8b",
    "landscape_300x700",
    "tiny_64x64",
]


@pytest.fixture(scope="module")
def model(request: pytest.FixtureRequest) -> Any:
    """Return the reference's model with weights under which pixels matter."""
    cache = request.config.cache
    assert cache is not None
    return spread_model(
        [model_input(case(name)).image for name in PICTURES], Path(cache.mkdir("spread-weights"))
    )


def scores(model: Any, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the 18 scores of one image, (224, 224)."""
    import torch

    with torch.inference_mode():
        return np.asarray(model(torch.from_numpy(image)[None, None])[0].numpy())


def reference_input(path: Path) -> NDArray[np.float32]:
    """Return the model's input as the reference makes it."""
    xrv = reference()
    crop, resize = xrv.datasets.XRayCenterCrop(), xrv.datasets.XRayResizer(224)
    return np.asarray(resize(crop(xrv.utils.read_xray_dcm(path)[None]))[0])


def test_the_weights_tell_the_pictures_apart(model: Any) -> None:
    seen = np.stack([scores(model, model_input(case(name)).image) for name in PICTURES])
    assert (np.ptp(seen, axis=0) > 0.2).all()


@pytest.mark.parametrize("by", [0.97, 1.03])
def test_a_wrong_brightness_shows_in_the_scores(model: Any, by: float) -> None:
    image = model_input(case("ok_mono2_12b_explicit")).image
    wrong = np.asarray((image + 1024) * by - 1024, np.float32)
    assert np.abs(scores(model, image) - scores(model, wrong)).max() > 100 * TOLERANCE


def test_scores_equal_the_references_wherever_it_is_right(model: Any) -> None:
    table: list[tuple[str, float | None, str]] = []
    for item in dicom_cases():
        try:
            theirs: NDArray[np.float32] | None = scores(model, reference_input(item.path))
            said = ""
        except (ValueError, NotImplementedError) as error:
            theirs, said = None, type(error).__name__
        try:
            ours = model_input(item.read())
        except InstanceRejected as rejected:
            table.append((item.name, None, f"{rejected.reason.value}; reference: {said or 'a score'}"))
            continue
        apart = None if theirs is None else float(np.abs(scores(model, ours.image) - theirs).max())
        flags = " ".join(sorted(flag.value for flag in ours.flags))
        table.append((item.name, apart, f"{ours.bits} bits {flags} {said}".strip()))
    print()
    for name, apart, about in table:
        print(f"{name:44} {'' if apart is None else f'{apart:.1e}':8} {about}")

    measured = {name: apart for name, apart, _ in table}
    assert {name for name, apart in measured.items() if apart is None} == REFERENCE_REFUSES | REJECTED
    apart_where_right = {
        name: apart or 0.0 for name, apart in measured.items() if name not in REFERENCE_WRONG
    }
    assert len(measured) - len(REFERENCE_WRONG | REFERENCE_REFUSES | REJECTED) > 25
    assert max(apart_where_right.values()) <= TOLERANCE, apart_where_right
    # Where it is wrong the scores must really differ, or the departure would be for nothing.
    for name in REFERENCE_WRONG:
        assert (measured[name] or 0) > 100 * TOLERANCE, name


def test_the_graph_scores_as_the_reference_with_spread_scores(model: Any, tmp_path: Path) -> None:
    """Operating points multiply rounding, and these weights reach both sides of all of them."""
    import torch

    path = tmp_path / "spread.pt"
    torch.save(model.state_dict(), path)
    weights = Weights(path, hashlib.sha256(path.read_bytes()).hexdigest(), meaningful=True)
    pictures = distorted([model_input(case(name)).image for name in PICTURES])
    theirs = np.stack([scores(model, picture[0]) for picture in pictures])
    engine = load(weights, engine="onnxruntime", threads=1)
    apart = np.abs(engine.scores(pictures) - theirs)
    print(f"largest difference {apart.max():.1e} over {apart.size} scores")
    assert apart.max() <= 1e-5
    assert (np.ptp(theirs, axis=0) > 0.2).all()


def test_a_picture_has_the_same_scores_however_it_is_stored(model: Any) -> None:
    plain = scores(model, model_input(case("ok_mono2_12b_explicit")).image)
    for name in sorted(REFERENCE_WRONG - {"modality_lut"} | REFERENCE_REFUSES - {"rgb_grey_sc"}):
        seen = scores(model, model_input(case(name)).image)
        # Half a grey level of 12 bits lies between 8131 of 8191 and 4065 of 4095.
        assert np.abs(plain - seen).max() < 0.01, name


def test_importing_the_reference_leaves_warnings_as_they_are() -> None:
    before = list(warnings.filters)
    reference()
    assert warnings.filters == before
