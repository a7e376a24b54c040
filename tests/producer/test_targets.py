"""Where runs say that their numbers are: Prometheus finds them whatever their containers are called."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from backlog.settings import Settings
from producer.monitoring.targets import announced, own_address, prune
from producer.runner.metrics import RunsMetrics
from producer.runner.runs import Failure, RunCounts, RunInfo, RunState
from tests.support.servers import free_port


def test_a_target_is_there_while_its_run_is_worked_on(tmp_path: Path) -> None:
    settings = Settings(metrics_targets=str(tmp_path / "targets"))
    path = tmp_path / "targets" / "run-a.json"
    with announced(settings, "run-a", 9464, run="a"):
        assert json.loads(path.read_text()) == [
            {"targets": [f"{own_address()}:9464"], "labels": {"run": "a"}}
        ]
        assert path.stat().st_mode & 0o044 == 0o044  # Prometheus is another user
    assert not path.exists()


def test_a_producer_that_fails_leaves_its_target_to_be_missed(tmp_path: Path) -> None:
    settings = Settings(metrics_targets=str(tmp_path))
    with pytest.raises(RuntimeError), announced(settings, "run-a", 1):
        raise RuntimeError
    assert (tmp_path / "run-a.json").exists()
    prune(settings, {"run-a"})
    assert (tmp_path / "run-a.json").exists()
    prune(settings, set())
    assert not (tmp_path / "run-a.json").exists()


def test_the_runners_numbers_outlive_the_producers(tmp_path: Path) -> None:
    settings = Settings(metrics_port=free_port(), metrics_targets=str(tmp_path))
    counts = RunCounts(total=9, reported=7, skipped={"lateral": 2}, quarantined={}, seconds=1.0)
    run = RunInfo(tmp_path, RunState.COMPLETE, run="r", counts=counts, failure=Failure("x", 2, 0.0, 0.0))
    with RunsMetrics(settings, lambda: [run]) as served:
        with urllib.request.urlopen(f"http://127.0.0.1:{served.port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        assert (tmp_path / "runner.json").exists()
    for line in (
        'cxr_run_state{run="r",state="complete"} 1.0',
        'cxr_run_state{run="r",state="interrupted"} 0.0',
        'cxr_run_items{outcome="reported",run="r"} 7.0',
        'cxr_run_items{outcome="skipped",run="r"} 2.0',
        'cxr_run_items_listed{run="r"} 9.0',
        'cxr_run_tries{run="r"} 2.0',
    ):
        assert line in text
