"""The model's preparation: what is done the first time on a machine, and what a later run still waits for."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from backlog.environment import child_environment
from tests.support.servers import ROOT
from tests.support.weights_fixture import seeded, weights_cache  # noqa: F401 - fixtures
from worker.model import engine
from worker.model.network import was_checked
from worker.model.weights import Weights
from worker.prepare import main

pytestmark = pytest.mark.slow


class Prepared(NamedTuple):
    status: int
    steps: list[str]
    answer: dict[str, Any]
    said: str


def prepare(cache: Path, *options: str, **settings: str) -> Prepared:
    done = subprocess.run(
        [sys.executable, "-m", "worker.prepare", "--steps", *options],
        env=child_environment() | {"CXR_WEIGHTS": "seeded", "CXR_CACHE": str(cache)} | settings,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    steps = [one["step"] for one in lines if "step" in one]
    return Prepared(done.returncode, steps, lines[-1] if len(lines) > len(steps) else {}, done.stderr)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that was empty when the seeded weights were prepared in it."""
    cache = tmp_path_factory.mktemp("cache")
    first = prepare(cache, "--if-unchecked")
    assert first.status == 0, first.said
    assert first.steps == ["weights", "load", "check"]
    assert (first.answer["engine"], first.answer["meaningful"]) == ("onnxruntime", False)
    return cache


def test_what_was_checked_here_need_not_be_loaded_again(cache: Path) -> None:
    again = prepare(cache, "--if-unchecked")
    assert (again.status, again.steps) == (0, ["weights"])
    assert (again.answer["engine"], again.answer["meaningful"]) == ("onnxruntime", False)


def test_it_is_loaded_all_the_same_where_that_is_asked(cache: Path) -> None:
    """As `doctor` and the containers do: whether it loads on this machine is what they ask."""
    assert prepare(cache).steps == ["weights", "load", "check"]


def test_pytorch_is_loaded_each_time(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(engine, "load", lambda weights, **given: loaded.append(given["engine"]))
    monkeypatch.setenv("CXR_WEIGHTS", "seeded")
    monkeypatch.setenv("CXR_CACHE", str(cache))
    monkeypatch.setattr(sys, "argv", ["prepare", "--if-unchecked"])
    for name, times in (("torch", 1), ("onnxruntime", 0)):
        loaded.clear()
        monkeypatch.setenv("CXR_ENGINE", name)
        main()
        assert json.loads(capsys.readouterr().out)["engine"] == name
        assert loaded == [name] * times


def test_other_weights_than_those_checked_are_refused(cache: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pt"
    other.write_bytes(b"not the released file")
    done = prepare(cache, "--if-unchecked", CXR_WEIGHTS=str(other))
    assert (done.status, done.steps) == (2, ["weights"])
    assert "has the SHA-256" in done.said


def test_weights_that_changed_since_their_check_are_refused(cache: Path, tmp_path: Path) -> None:
    copied = tmp_path / "cache"
    copied.mkdir()
    for path in cache.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    (weights,) = copied.glob("seeded-*.pt")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    done = prepare(copied, "--if-unchecked")
    assert (done.status, done.steps) == (2, ["weights"])
    assert "isn't what the seed gives" in done.said


def test_a_check_counts_for_its_weights_and_runtime_alone(
    cache: Path,
    tmp_path: Path,
    seeded: Weights,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert was_checked(seeded, cache)
    assert not was_checked(seeded, tmp_path)
    assert not was_checked(Weights(seeded.path, "0" * 64, meaningful=False), cache)
    monkeypatch.setattr(metadata, "version", lambda name: "0.0")
    assert not was_checked(seeded, cache)

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert not was_checked(seeded, cache)
