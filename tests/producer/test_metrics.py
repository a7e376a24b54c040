"""The run's numbers: right, always there, and the alerts and the dashboard ask for numbers that exist."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from backlog.broker.celery_app import make_app
from backlog.broker.claim import Claim
from backlog.broker.claims import Claims
from backlog.broker.messages import TASKS, Stage
from backlog.broker.queues import queue_of
from backlog.broker.task_ids import task_id
from backlog.errors import UsageError
from backlog.outcomes import Reason
from backlog.pacs.folder import FolderPacs
from backlog.pacs.limited_pacs import modality_slots
from backlog.settings import Settings
from producer.dispatch.progress import RunProgress
from producer.execution.dispatch_run import metrics_of
from producer.ledger.ledger import Ledger
from producer.ledger.run_job import RunJob
from producer.monitoring import poller as poller_module
from producer.monitoring.metrics import Metrics
from producer.results.audit_log import Audit
from producer.run.folder import Paths
from producer.run.open_run import OpenRun
from producer.runner.metrics import RunsMetrics
from tests.chaos.simulated import Simulated
from tests.conftest import need
from tests.support.ended_runs import harvest, list_items, new_ledger, rejected, reported, some_scores, times
from tests.support.prometheus import ask
from tests.support.prometheus import prometheus as real_prometheus
from tests.support.servers import ROOT, RedisServer, free_port, wait_until

MONITORING = ROOT / "deploy" / "monitoring"
RUN = "20260101000000-abcdef"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    held = new_ledger(tmp_path)
    list_items(held, 96)
    yield held
    held.close()


@pytest.fixture
def metrics(
    ledger: Ledger, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Metrics]:
    monkeypatch.setattr(poller_module, "LOOK_EVERY", 0.1)
    monkeypatch.setattr(poller_module, "ASK_EVERY", 0.2)
    monkeypatch.setattr(poller_module, "ASK_FOR", 0.3)
    with build(ledger, redis_url, tmp_path) as served:
        yield served


def build(ledger: Ledger, redis_url: str, folder: Path) -> Metrics:
    settings = Settings(redis_url=redis_url, metrics_port=free_port())
    pacs = FolderPacs(folder / "pacs")
    return Metrics(ledger, Claims(redis_url), make_app(settings), pacs, RunJob(ledger).now, settings)


def scrape(metrics: Metrics) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics.port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def value(text: str, series: str) -> float | None:
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else None


def progress(ledger: Ledger, **more: object) -> RunProgress:
    base = RunProgress(listed=96, all_listed=True, total=96, tally=ledger.tally())
    return replace(base, **more)  # type: ignore[arg-type]  # a test's own


def send(metrics: Metrics, chunk: int, stage: Stage) -> None:
    metrics.app.send_task(
        TASKS[stage],
        args=[{}, chunk, []],
        task_id=task_id(RUN, chunk, stage),
        queue=queue_of(stage, metrics.job()),
    )


def test_items_are_counted_by_outcome_reason_and_stage(metrics: Metrics, ledger: Ledger) -> None:
    harvest(
        ledger,
        lambda item: rejected(Reason.BLANK) if item % 8 == 0 else reported(item, some_scores(item)),
        chunks=2,
    )
    metrics.on_progress(
        progress(ledger, uploaded=64, inferred=48, in_flight=3, leased=2, resent=1, paused=True)
    )
    text = scrape(metrics)
    assert value(text, 'cxr_items_ended_total{outcome="reported",reason="",stage="report"}') == 28
    assert value(text, 'cxr_items_ended_total{outcome="quarantined",reason="blank",stage="infer"}') == 4
    assert value(text, 'cxr_items_ended_total{outcome="skipped",reason="",stage=""}') == 0
    for series, right in {
        'cxr_stage_items_passed{stage="upload"}': 64,
        'cxr_stage_items_passed{stage="infer"}': 48,
        'cxr_stage_items_passed{stage="report"}': 32,
        "cxr_items_listed": 96,
        "cxr_items_expected": 96,
        "cxr_chunks_in_flight": 3,
        "cxr_chunks_leased": 2,
        "cxr_chunks_resent_total": 1,
        "cxr_run_paused": 1,
        "cxr_run_waiting": 0,
        "cxr_pacs_requests_most": 8,
    }.items():
        assert value(text, series) == right, series
    assert f'run="{RUN}"' in text


def test_times_of_stages_become_histograms(metrics: Metrics) -> None:
    metrics.on_stage_times({1: dict(times(1, 16)), 10: dict(times(10, 16))})
    text = scrape(metrics)
    assert value(text, 'cxr_stage_seconds_count{stage="infer"}') == 2
    assert value(text, 'cxr_stage_seconds_sum{stage="infer"}') == pytest.approx(2 * 16 * 0.130)
    assert value(text, 'cxr_stage_seconds_bucket{le="2.5",stage="infer"}') == 2
    assert value(text, 'cxr_stage_seconds_bucket{le="1.0",stage="infer"}') == 0
    assert value(text, 'cxr_stage_images_total{stage="report"}') == 32
    assert value(text, 'cxr_stage_attempts_total{stage="upload"}') == 3  # the tenth chunk took two


def test_the_time_left_follows_from_the_rate(
    metrics: Metrics, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("producer.monitoring.metrics.time.monotonic", lambda: clock[0])
    metrics.on_progress(progress(ledger))
    assert value(scrape(metrics), "cxr_eta_seconds") is None  # nothing is known yet
    harvest(ledger, lambda item: reported(item, some_scores(item)), chunks=2)
    clock[0] += 16.0
    metrics.on_progress(progress(ledger))
    text = scrape(metrics)
    assert value(text, "cxr_items_per_second") == 2.0
    assert value(text, "cxr_eta_seconds") == 32.0


def test_what_waits_and_since_when(metrics: Metrics, ledger: Ledger) -> None:
    # Chunk 3 was sent a minute ago; chunk 4 has passed upload, and waits for inference since then.
    send(metrics, 3, Stage.UPLOAD)
    send(metrics, 5, Stage.UPLOAD)
    metrics.on_progress(progress(ledger))
    metrics.claims.messages.mark_sent(RUN, [5])
    metrics.claims.broker.client.zadd(f"cxr:{RUN}:sent", {"3": 1000 * (time.time() - 60)})
    claim = metrics.claims.claim(RUN, 4, Stage.UPLOAD, Stage.UPLOAD)
    assert isinstance(claim, Claim)
    claim.finish(Stage.INFER, {}, 16)
    send(metrics, 4, Stage.INFER)
    wait_until(lambda: value(scrape(metrics), 'cxr_queue_messages{queue="upload"}') == 2)
    wait_until(
        lambda: (
            (value(scrape(metrics), 'cxr_queue_oldest_seconds{queue="inference.abababababab"}') or 0) > 0.5
        )
    )
    text = scrape(metrics)
    assert 59 < (value(text, 'cxr_queue_oldest_seconds{queue="upload"}') or 0) < 75
    assert (value(text, 'cxr_queue_oldest_seconds{queue="inference.abababababab"}') or 99) < 15
    assert value(text, 'cxr_queue_oldest_seconds{queue="report"}') == 0
    assert (value(text, "cxr_redis_memory_bytes") or 0) > 100_000
    assert value(text, "cxr_redis_memory_max_bytes") == 0
    assert value(text, "cxr_pacs_up") == 1


def test_workers_that_listen_are_counted_and_missed(metrics: Metrics, redis_url: str, tmp_path: Path) -> None:
    listening = 'cxr_queue_consumers{queue="report"}'
    wait_until(lambda: value(scrape(metrics), listening) == 0)
    worker = subprocess.Popen(
        [
            *[sys.executable, "-m", "celery", "-A", "worker.main", "worker", "--queues", "report,upload"],
            *["--pool", "solo", "--without-gossip", "--without-mingle", "--hostname", "one@test"],
        ],
        env={"CXR_REDIS_URL": redis_url, "CXR_PACS_URL": str(tmp_path / "pacs"), "PATH": "/usr/bin:/bin"},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: value(scrape(metrics), listening) == 1, 60)
        assert value(scrape(metrics), 'cxr_queue_consumers{queue="inference.abababababab"}') == 0
    finally:
        worker.terminate()
        worker.wait(30)
    wait_until(lambda: value(scrape(metrics), listening) == 0, 60)


def test_a_queue_that_the_run_misses_a_worker_of_is_zero(metrics: Metrics, ledger: Ledger) -> None:
    """The run finds it within seconds; the workers are asked for the numbers more rarely."""
    metrics.on_progress(progress(ledger, queues_without_worker=["elsewhere"]))
    assert value(scrape(metrics), 'cxr_queue_consumers{queue="elsewhere"}') == 0


def test_while_redis_is_unavailable_a_scrape_still_answers(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("redis-server")
    monkeypatch.setattr(poller_module, "LOOK_EVERY", 0.1)
    monkeypatch.setattr(poller_module, "ASK_EVERY", 0.2)
    server = RedisServer(tmp_path / "redis")
    server.start()
    with build(ledger, server.url, tmp_path) as metrics:
        wait_until(lambda: value(scrape(metrics), "cxr_redis_memory_bytes"))
        server.stop(9)
        metrics.on_progress(progress(ledger, waiting_reason="Redis is unavailable"))
        wait_until(lambda: value(scrape(metrics), "cxr_redis_memory_bytes") is None)
        wait_until(lambda: value(scrape(metrics), 'cxr_queue_consumers{queue="upload"}') is None)
        text = scrape(metrics)
        assert value(text, "cxr_items_listed") == 96
        assert value(text, "cxr_run_waiting") == 1


def test_a_pacs_that_is_unavailable_is_down(ledger: Ledger, redis_url: str, tmp_path: Path) -> None:
    from backlog.pacs.connect import connect

    settings = Settings(redis_url=redis_url, metrics_port=free_port(), pacs_seconds=1)
    pacs = connect(settings, f"http://127.0.0.1:{free_port()}")
    with Metrics(
        ledger, Claims(redis_url), make_app(settings), pacs, RunJob(ledger).now, settings
    ) as metrics:
        wait_until(lambda: value(scrape(metrics), "cxr_redis_memory_bytes"))
        assert value(scrape(metrics), "cxr_pacs_up") == 0
        assert value(scrape(metrics), "cxr_pacs_seconds") is None


def test_the_shown_pacs_limit_is_the_one_that_workers_keep(metrics: Metrics, ledger: Ledger) -> None:
    from backlog.pacs.concurrency_limit import PacsConcurrencyLimit

    wait_until(lambda: value(scrape(metrics), "cxr_pacs_requests_limit") == 8)
    worker = PacsConcurrencyLimit(metrics.claims.broker, str(ledger.get("pacs")), most=8)
    with pytest.raises(OSError, match="reset"), worker.slot("fetch"):
        wait_until(lambda: value(scrape(metrics), "cxr_pacs_requests") == 1)
        raise OSError("connection reset")
    wait_until(lambda: value(scrape(metrics), "cxr_pacs_requests_limit") == 4)
    assert value(scrape(metrics), "cxr_pacs_requests") == 0


def test_a_port_that_is_taken_and_a_missing_library_are_said(
    ledger: Ledger, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        made = build(ledger, redis_url, tmp_path)
        made.settings = replace(made.settings, metrics_port=taken.getsockname()[1])
        with pytest.raises(UsageError, match="CXR_METRICS_PORT: can't listen"), made:
            pass
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(UsageError, match=r"cxr-backlog\[monitor\]"):
        build(ledger, redis_url, tmp_path)


def test_nothing_is_served_where_nobody_asked(ledger: Ledger, redis_url: str, tmp_path: Path) -> None:
    settings, paths = Settings(redis_url=redis_url), Paths(tmp_path)
    with Audit(ledger, paths.audit) as audit:
        run = OpenRun(settings, paths, ledger, audit, RunJob(ledger), Simulated(1), "", print)
        assert metrics_of(run, Claims(redis_url), make_app(settings)) is None
        asked = replace(
            run, settings=replace(settings, metrics_port=free_port()), pacs_url=str(tmp_path / "pacs")
        )
        assert isinstance(metrics_of(asked, Claims(redis_url), make_app(settings)), Metrics)


# -- the alerts and the dashboard ----------------------------------------------------------------------------


def names(text: str) -> set[str]:
    return set(re.findall(r"\bcxr_[a-z_]+\b", text))


def test_alerts_and_dashboard_ask_only_for_numbers_that_exist(metrics: Metrics, ledger: Ledger) -> None:
    harvest(ledger, lambda item: reported(item, some_scores(item)), chunks=1)
    metrics.on_progress(progress(ledger))
    wait_until(lambda: value(scrape(metrics), 'cxr_queue_consumers{queue="upload"}') is not None)
    exists = names(scrape(metrics)) | {"cxr_eta_seconds"}
    exists |= {family.name for family in RunsMetrics(Settings(), list).collect()}
    for file in ("rules.yml", "rules.test.yml", "grafana/cxr-backlog.json"):
        asked = names((MONITORING / file).read_text())
        assert asked
        assert asked <= exists, file


def test_the_exporter_pleases_promtool(metrics: Metrics, ledger: Ledger) -> None:
    need("promtool")
    metrics.on_progress(progress(ledger))
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=scrape(metrics), text=True, capture_output=True, timeout=60
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_rules_are_right_and_ring_when_they_have_to() -> None:
    need("promtool")
    for command in (
        ["check", "rules", "rules.yml"],
        ["test", "rules", "rules.test.yml"],
        ["check", "config", "prometheus.yml"],
    ):
        done = subprocess.run(
            ["promtool", *command], cwd=MONITORING, text=True, capture_output=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def prometheus(metrics: Metrics, tmp_path: Path) -> Iterator[str]:
    """The project's own configuration in a real Prometheus, which a run's own file tells where to ask."""
    need("prometheus")
    configuration = (MONITORING / "prometheus.yml").read_text()
    (tmp_path / "prometheus.yml").write_text(configuration.replace("15s", "1s"))
    (tmp_path / "targets").mkdir()
    target = [{"targets": [f"127.0.0.1:{metrics.port}"], "labels": {"run": RUN}}]
    (tmp_path / "targets" / f"run-{RUN}.json").write_text(json.dumps(target))
    shutil.copy(MONITORING / "rules.yml", tmp_path)
    with real_prometheus(tmp_path) as url:
        yield url


def test_prometheus_takes_the_numbers_and_every_panel_asks_it(
    metrics: Metrics, ledger: Ledger, prometheus: str
) -> None:
    harvest(ledger, lambda item: reported(item, some_scores(item)), chunks=2)
    send(metrics, 3, Stage.UPLOAD)
    metrics.on_stage_times({chunk: dict(times(chunk, 8)) for chunk in (1, 2)})
    metrics.on_progress(progress(ledger, in_flight=1))
    wait_until(lambda: ask(prometheus, 'cxr_items_ended_total{outcome="reported"}'), 60, "it has scraped")
    (ended,) = ask(prometheus, f'sum by (run) (cxr_items_ended_total{{outcome="reported",run="{RUN}"}})')
    assert float(ended["value"][1]) == ledger.tally().ended
    wait_until(lambda: ask(prometheus, "cxr:items_ended:sum"), 30, "a rule has recorded")
    # A message waits, and nobody listens: this alert has begun to count its minutes.
    pending = 'ALERTS{alertname="CxrNoConsumer",queue="upload",alertstate="pending"}'
    wait_until(lambda: ask(prometheus, pending), 30, "an alert is pending")
    wait_until(lambda: ask(prometheus, "rate(cxr_stage_seconds_sum[5m])"), 30, "a second scrape")
    board = json.loads((MONITORING / "grafana" / "cxr-backlog.json").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    silent = [query for query in asked if not ask(prometheus, query.replace("$run", ".*"))]
    # Of what hasn't happened here, and in a folder instead of a PACS, there is nothing to show.
    may_be = ("eta", "reason", "redis_memory_max", "pacs", "attempts", "increase")
    assert not [query for query in silent if not any(word in query for word in may_be)], silent


def test_every_alert_is_tried() -> None:
    alerts = set(re.findall(r"alert: (\w+)", (MONITORING / "rules.yml").read_text()))
    tried = set(re.findall(r'alertname="(\w+)"', (MONITORING / "rules.test.yml").read_text()))
    quiet = set(re.findall(r"alertname: (\w+)", (MONITORING / "rules.test.yml").read_text()))
    assert alerts == tried == quiet


def test_the_dashboard_is_sound() -> None:
    board = json.loads((MONITORING / "grafana" / "cxr-backlog.json").read_text())
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    places: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not places & cells, panel["title"]
        assert at["x"] + at["w"] <= 24
        places |= cells


def test_compose_takes_the_monitoring_file() -> None:
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode
    ):
        pytest.skip("docker compose is not installed")
    secrets = ("CXR_PACS_USERNAME", "CXR_PACS_PASSWORD", "CXR_REDIS_PASSWORD", "CXR_FLOWER_PASSWORD")
    environment = dict.fromkeys((*secrets, "CXR_GRAFANA_PASSWORD"), "x") | {
        "PATH": "/usr/local/bin:/usr/bin:/bin"
    }
    files = ["-f", "docker-compose.yml", "-f", "deploy/monitoring/compose.yml"]
    done = subprocess.run(
        ["docker", "compose", *files, "--profile", "*", "config", "--format", "json"],
        cwd=ROOT,
        env=environment,
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    services = json.loads(done.stdout)["services"]
    assert services["producer"]["environment"]["CXR_METRICS_PORT"] == "9464"
    assert "ports" not in services["prometheus"]
    assert services["grafana"]["ports"][0]["host_ip"] == "127.0.0.1"
    for name in ("prometheus", "grafana"):
        assert services[name]["read_only"]
        assert services[name]["healthcheck"]
        assert services[name]["mem_limit"]
    del environment["CXR_GRAFANA_PASSWORD"]
    done = subprocess.run(
        ["docker", "compose", *files, "config", "-q"],
        cwd=ROOT,
        env=environment,
        text=True,
        capture_output=True,
    )
    assert "make env" in done.stderr


def test_what_a_modality_sends_and_takes_is_counted(
    ledger: Ledger, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poller_module, "LOOK_EVERY", 0.1)
    job = ledger.get("job")
    job |= {"deliver": "archive", "source": {**job["source"], "modality": "hospital"}}
    ledger.set("job", job)
    address, settings = ledger.get("pacs"), Settings(redis_url=redis_url)
    with build(ledger, redis_url, tmp_path) as served:
        slots = modality_slots(Claims(redis_url).broker, settings, address, "hospital", "move")
        with slots.slot("move"):
            series = 'cxr_modality_requests{what="move"}'
            wait_until(lambda: value(scrape(served), series) == 1, what="the slot is counted")
            text = scrape(served)
    assert value(text, 'cxr_modality_requests{what="store"}') == 0
    assert value(text, 'cxr_modality_requests_limit{what="move"}') == 2


def test_a_run_that_follows_says_so(metrics: Metrics, ledger: Ledger) -> None:
    assert value(scrape(metrics), "cxr_run_following") == 0
    metrics.on_progress(progress(ledger, following=True, all_listed=False))
    assert value(scrape(metrics), "cxr_run_following") == 1
