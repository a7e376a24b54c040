"""The graph built from arrays: torchxrayvision's scores and maps, of every released network, and nothing to forge."""

from __future__ import annotations

import hashlib
import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from backlog.errors import UsageError
from backlog.model import DEFAULT_MODEL, LABELS, MODELS
from tests.support.weights_fixture import densenet, legacy_release, seeded, weights_cache  # noqa: F401 - fixtures
from worker.model import network as module
from worker.model.exact import exact_scores
from worker.model.network import build_graph, check_scores, read_state, sample_images
from worker.model.onnx_engine import OnnxForward
from worker.model.weights import Weights, locate

pytestmark = pytest.mark.slow

DENSENETS = [name for name, model in MODELS.items() if model.architecture == "densenet121"]
RESNET = "resnet50-res512-all"
PARITY = 1e-5


def torchxrayvision_scores(weights: Weights, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Score by torchxrayvision's own network, with the configuration that it has for the weights' name."""
    import torch

    from tests.support.spread_weights import reference

    xrv = reference()
    points = torch.tensor(xrv.models.model_urls[weights.model.name]["op_threshs"])
    with torch.inference_mode():
        if weights.model.architecture == "densenet121":
            model: Any = densenet(weights)
            model.op_threshs = points
            return np.asarray(model(torch.from_numpy(images)).numpy())
        import torchvision

        model = torchvision.models.resnet50(num_classes=18, weights=None)
        model.conv1 = torch.nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
        model.load_state_dict(torch.load(weights.path, weights_only=True))
        logits = model.eval()(torch.from_numpy(images))
        return np.asarray(xrv.models.op_norm(torch.sigmoid(logits), points).numpy())


# --- the same scores as torchxrayvision -----------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_every_model_scores_as_torchxrayvision_does(name: str, weights_cache: Path) -> None:  # noqa: F811
    weights = locate("seeded", "", weights_cache, download=False, model=name)
    images = sample_images(weights.model.side)
    scores = OnnxForward(build_graph(weights), threads=1)(images)
    theirs = torchxrayvision_scores(weights, images)
    trained = np.array(weights.model.evaluated)
    assert np.abs(scores - theirs)[:, trained].max() <= PARITY
    assert np.isnan(scores[:, ~trained]).all()
    assert (theirs[:, ~trained] == 0.5).all()  # which is no score
    assert theirs[:, trained].std(0).max() > 0.01  # the comparison could have failed


@pytest.mark.parametrize("name", [DEFAULT_MODEL, "densenet121-res224-nih", RESNET])
def test_the_gpu_engine_has_the_same_networks(name: str, weights_cache: Path) -> None:  # noqa: F811
    """In single precision they are the graph's scores, in half precision near them; both on the CPU here."""
    import torch

    from backlog.model import ENGINE_TOLERANCE as HALF_PARITY
    from worker.model.engine import load
    from worker.model.torch_engine import half_precision
    from worker.model.torch_model import network

    weights = locate("seeded", "", weights_cache, download=False, model=name)
    images = sample_images(weights.model.side)[:1]
    expected = OnnxForward(build_graph(weights), threads=1)(images)
    single = load(weights, engine="torch", threads=1).scores(images)
    np.testing.assert_allclose(single, expected, atol=PARITY)  # NaN in the same places
    half = half_precision(network(weights), weights.model.points)
    norms = [part for part in half.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    if name == RESNET:
        assert not norms  # all are folded: each follows a convolution
    with torch.inference_mode():
        found = half(torch.from_numpy(images)).float().numpy()
    np.testing.assert_allclose(found, expected, atol=HALF_PARITY)


def test_the_table_of_models_is_that_of_torchxrayvision() -> None:
    from tests.support.spread_weights import reference
    from worker.model.weights import RELEASES

    theirs = {
        name: config
        for name, config in reference().models.model_urls.items()
        if name.startswith(("densenet121", "resnet50"))
    }
    assert set(theirs) == set(MODELS) == set(RELEASES)
    for name, config in theirs.items():
        model = MODELS[name]
        assert np.array_equal(config["op_threshs"], model.points, equal_nan=True), name
        assert config["weights_url"] == RELEASES[name].url
        assert config["input_resolution"] == model.side
        assert len(config["labels"]) == len(LABELS)
        for label, ours, evaluated in zip(config["labels"], LABELS, model.evaluated, strict=True):
            assert label in ("", ours)
            assert label == ours or not evaluated


def test_exact_scores_are_torchxrayvisions_in_double_precision(seeded: Weights) -> None:  # noqa: F811
    import torch

    model: Any = densenet(seeded).double()
    model.op_threshs, model.apply_sigmoid = None, True  # op_norm has single precision only
    images = sample_images(224)[:1]
    with torch.inference_mode():
        p = model(torch.from_numpy(images).double()).numpy()
    points = np.array(seeded.model.points, np.float32).astype(np.float64)
    theirs = np.where(p < points, p / (2 * points), 1 - (1 - p) / (2 * (1 - points)))
    ours = exact_scores(read_state(seeded), seeded.model.points, images)
    assert np.abs(ours - theirs).max() < 1e-11


def test_the_maps_mean_is_the_logit(seeded: Weights) -> None:  # noqa: F811
    images = sample_images(224)
    scores, maps = OnnxForward(build_graph(seeded), threads=1).outputs(images, "scores", "maps")
    assert maps.shape == (3, 18, 7, 7)
    logits = maps.mean((2, 3)) + read_state(seeded)["classifier.bias"]
    p, points = 1 / (1 + np.exp(-logits)), np.array(seeded.model.points)
    assert (
        np.abs(np.where(p < points, p / points / 2, 1 - (1 - p) / (1 - points) / 2) - scores).max() < PARITY
    )


def test_the_graph_passes_the_checker_of_onnx(seeded: Weights, weights_cache: Path) -> None:  # noqa: F811
    onnx = pytest.importorskip("onnx")
    for weights in (seeded, locate("seeded", "", weights_cache, download=False, model=RESNET)):
        model = onnx.load_from_string(build_graph(weights))
        onnx.checker.check_model(model, full_check=True)


def test_the_same_weights_give_the_same_bytes(seeded: Weights, tmp_path: Path) -> None:  # noqa: F811
    """Whatever container they lie in."""
    path = tmp_path / "released.pt"
    digest = legacy_release(path, seeded)
    assert path.read_bytes()[:2] != b"PK"  # the release is in the legacy container
    released = Weights(path, digest, meaningful=True)
    assert build_graph(released) == build_graph(seeded)


# --- what doesn't fit -----------------------------------------------------------------------------------


def saved(state: dict[str, Any], path: Path, model: str = DEFAULT_MODEL) -> Weights:
    import torch

    buffer = io.BytesIO()
    torch.save({name: torch.from_numpy(np.array(array)) for name, array in state.items()}, buffer)
    path.write_bytes(buffer.getvalue())
    return Weights(path, hashlib.sha256(path.read_bytes()).hexdigest(), meaningful=True, model=MODELS[model])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("features.norm5.running_var"), "it has no features.norm5.running_var"),
        (lambda state: state.pop("features.conv0.weight"), "it has no features.conv0.weight"),
        (lambda state: state.update(more=np.zeros(3, np.float32)), "it has more too"),
        (
            lambda state: state.update({"classifier.bias": state["classifier.bias"][:14]}),
            r"classifier.bias is float32 of 14, not float of 18",
        ),
        (
            lambda state: state.update({"features.conv0.weight": np.zeros((64, 3, 7, 7), np.float32)}),
            r"features.conv0.weight is float32 of 64×3×7×7, not float of n×1×7×7",
        ),
        (
            lambda state: state.update({"classifier.bias": np.arange(18)}),
            r"classifier.bias is int64 of 18",
        ),
        (
            lambda state: state.update({"classifier.bias": np.full(18, np.nan, np.float32)}),
            r"classifier.bias holds a number that is not finite",
        ),
        (lambda state: state.clear(), "It holds no tensor"),
    ],
)
def test_another_network_is_refused_and_described(
    seeded: Weights,  # noqa: F811
    tmp_path: Path,
    change: Any,
    message: str,
) -> None:
    state = read_state(seeded)
    change(state)
    weights = saved(state, tmp_path / "other.pt")
    with pytest.raises(UsageError, match=message) as caught:
        build_graph(weights)
    assert "does not fit densenet121-res224-all, a densenet121 of 18 labels" in str(caught.value)
    assert "CXR_MODEL" in str(caught.value)


def test_a_missing_layer_never_gives_a_smaller_network(seeded: Weights, tmp_path: Path) -> None:  # noqa: F811
    for prefix in (
        "features.denseblock4.denselayer16.",
        "features.denseblock2.denselayer5.",
        "features.transition2.",
    ):
        state = {name: array for name, array in read_state(seeded).items() if not name.startswith(prefix)}
        with pytest.raises(UsageError, match="does not fit"):
            build_graph(saved(state, tmp_path / "short.pt"))


def test_weights_of_the_other_architecture_are_refused(seeded: Weights, weights_cache: Path) -> None:  # noqa: F811
    wrong = Weights(seeded.path, seeded.sha256, meaningful=True, model=MODELS[RESNET])
    with pytest.raises(
        UsageError, match=r"it has no conv1.weight. It holds 727 tensors, from features.conv0.weight"
    ):
        build_graph(wrong)


def test_other_operating_points_in_the_file_are_refused(seeded: Weights, tmp_path: Path) -> None:  # noqa: F811
    state = read_state(seeded)
    points = np.array(seeded.model.points, np.float32)
    assert build_graph(saved({**state, "op_threshs": points}, tmp_path / "same.pt")) == build_graph(seeded)
    with pytest.raises(UsageError, match="other operating points"):
        build_graph(saved({**state, "op_threshs": points + 0.1}, tmp_path / "other.pt"))
    nih = saved({**state, "op_threshs": points}, tmp_path / "nih.pt", "densenet121-res224-nih")
    with pytest.raises(UsageError, match="not densenet121-res224-nih"):
        build_graph(nih)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04", b"\x80\x02}."])
def test_what_is_no_pytorch_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.pt"
    path.write_bytes(content)
    weights = Weights(path, hashlib.sha256(content).hexdigest(), meaningful=True)
    with pytest.raises(UsageError, match="not a readable PyTorch file"):
        build_graph(weights)


# --- the check on this machine --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def forward(seeded: Weights) -> OnnxForward:  # noqa: F811
    """The graph of the seeded weights, loaded."""
    return OnnxForward(build_graph(seeded), threads=1)


@pytest.fixture(scope="module")
def _exact() -> dict[str, Any]:
    return {}


@pytest.fixture
def exact_once(_exact: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute the exact scores of the seeded weights once: they take seconds, and are the same in each test."""

    def kept(state: Any, points: Any, images: NDArray[np.float32], precision: Any = np.float64) -> Any:
        name = np.dtype(precision).name
        if name not in _exact:
            _exact[name] = exact_scores(state, points, images, precision)
        return _exact[name]

    monkeypatch.setattr(module, "exact_scores", kept)


@pytest.mark.usefixtures("exact_once")
def test_a_graph_is_checked_once_and_noted(
    seeded: Weights,  # noqa: F811
    forward: OnnxForward,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        check_scores(seeded, forward, tmp_path)
        assert caplog.text.count("model.checked") == 1
        check_scores(seeded, forward, tmp_path)
        assert caplog.text.count("model.checked") == 1
        check_scores(seeded, forward, tmp_path / "no such folder")  # can't be noted: checked all the same
        assert caplog.text.count("model.checked") == 2


@pytest.mark.usefixtures("exact_once")
@pytest.mark.parametrize("wrong", [lambda s: s + 1e-3, lambda s: s * np.nan, lambda s: s[:, ::-1]])
def test_a_graph_with_other_scores_is_refused(
    seeded: Weights,  # noqa: F811
    forward: OnnxForward,
    tmp_path: Path,
    wrong: Any,
) -> None:
    with pytest.raises(UsageError, match=r"differ from the exact ones by .* CXR_ENGINE=torch"):
        check_scores(seeded, lambda images: wrong(forward(images)), tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_lies_in_the_cache_changes_no_score(seeded: Weights, tmp_path: Path) -> None:  # noqa: F811
    """Somebody who may write there can leave graphs and notes under any name: nothing is read from them."""
    from worker.model.engine import load

    images = sample_images(224)
    weights = Weights(tmp_path / "w.pt", seeded.sha256, meaningful=False)
    weights.path.write_bytes(seeded.path.read_bytes())
    expected = load(weights, engine="onnxruntime", threads=1).scores(images)
    forged = read_state(seeded)
    forged["classifier.bias"] = forged["classifier.bias"] + 1
    graph = build_graph(saved(forged, tmp_path / "forged.pt"))
    digest = hashlib.sha256(graph).hexdigest()
    for name in (f"{seeded.sha256}.v1.{digest}.onnx", f"{seeded.sha256}.onnx", f"{digest}.checked"):
        (tmp_path / name).write_bytes(graph)
    assert np.array_equal(load(weights, engine="onnxruntime", threads=1).scores(images), expected)
    weights.path.write_bytes((tmp_path / "forged.pt").read_bytes())
    with pytest.raises(UsageError, match="is not the file with the SHA-256"):
        load(weights, engine="onnxruntime", threads=1)


def test_the_tolerance_never_exceeds_the_promise() -> None:
    assert module.PARITY == 1e-5
    assert module.WORST_PARITY == 1e-4
