"""A real Prometheus beside the stack, and a stage without workers. Run by ``make compose-test``.

Prometheus runs on this machine instead of in a container, since its image needs a registry; its
configuration, its rules, and the folder of targets that the stack writes are the stack's own. It reaches the containers
by their addresses, as a container would.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.compose.account import Account
from tests.compose.stack import Stack
from tests.conftest import need
from tests.support.prometheus import ask
from tests.support.prometheus import prometheus as real_prometheus
from tests.support.servers import ROOT, wait_until

pytestmark = pytest.mark.timeout(1800)

MONITORING = ROOT / "deploy" / "monitoring"


@pytest.fixture(scope="module")
def prometheus(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    need("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    configuration = (MONITORING / "prometheus.yml").read_text().replace("15s", "1s")
    configuration = configuration.replace("flower:5555", f"127.0.0.1:{stack.flower_port}")
    (folder / "prometheus.yml").write_text(configuration)
    (folder / "targets").symlink_to(stack.folder / "out" / ".targets")
    shutil.copy(MONITORING / "rules.yml", folder)
    with real_prometheus(folder) as url:
        yield url


def board() -> list[str]:
    """Return the queries of the Grafana board."""
    found = json.loads((MONITORING / "grafana" / "cxr-backlog.json").read_text())
    return [target["expr"] for panel in found["panels"] for target in panel.get("targets", [])]


def test_a_run_is_scraped_and_every_panel_has_its_numbers(stack: Stack, prometheus: str) -> None:
    source = stack.backlog("scraped", 60, seed=71)
    command = stack.command("run", "--rm", "-T", "--name", f"{stack.name}-odd", "producer", "run", source)
    process = subprocess.Popen([*command, "--out", "/out/scraped"], stdout=subprocess.DEVNULL)
    try:
        up = 'up{job="cxr-backlog"} == 1'
        wait_until(lambda: ask(prometheus, up), 120, "the run is scraped")
        (target,) = ask(prometheus, up)
        run = target["metric"]["run"]
        assert run == stack.run_id("scraped")
        silent = board()

        def answered() -> bool:
            """Ask again for what had no number yet, while the run lasts."""
            silent[:] = [query for query in silent if not ask(prometheus, query.replace("$run", run))]
            # Nothing is tried again here, and nothing may be left to do by the time that a rate is known.
            return not [query for query in silent if not re.search("attempts|eta_seconds", query)]

        wait_until(answered, 240, f"every panel has numbers; without: {silent}")
    finally:
        assert process.wait(600) in (0, 3)
    wait_until(lambda: not ask(prometheus, up), 60, "its target is gone with it")
    numbers = ask(prometheus, f'cxr_run_items{{run="{run}",outcome="reported"}}')
    assert [float(one["value"][1]) for one in numbers] == [stack.summary("scraped")["reported"]]
    for job in ("cxr-runner", "flower"):
        wait_until(lambda job=job: ask(prometheus, f'up{{job="{job}"}} == 1'), 60, job)  # type: ignore[misc]


def test_a_stage_without_workers_is_named_everywhere(stack: Stack, prometheus: str, account: Account) -> None:
    """A user stopped all report workers: nothing starts them again, and the run has to say so."""
    before = stack.reports()
    (worker,) = stack.containers("worker-report")
    subprocess.run([*stack.docker, "kill", worker["Id"]], capture_output=True, check=True)
    stack.detach("without", 40, seed=72)

    def status() -> dict[str, Any]:
        done = stack.producer("status", "/out/without", "--json")
        return json.loads(done.stdout) if done.returncode == 0 else {}

    start = "docker compose up -d worker-report"
    stack.wait_for(lambda: start in status().get("waiting_reason", ""), 300, "status names it")
    assert "queue report" in status()["waiting_reason"]
    shown = stack.producer("status", "/out/without").stdout
    assert start in " ".join(shown.split())
    wait_until(
        lambda: [one["value"][1] for one in ask(prometheus, 'cxr_queue_consumers{queue="report"}')] == ["0"],
        60,
        "the numbers say it",
    )
    wait_until(lambda: ask(prometheus, 'ALERTS{alertname="CxrNoConsumer"}'), 60, "an alert counts")
    listed = stack.producer("runs").stdout
    assert start in listed
    page = stack.folder / "out" / "index.html"
    stack.wait_for(lambda: "No worker takes from: report." in page.read_text(), 60, "the page says it")
    log = stack.compose("logs", "--no-color", "runner")
    said = [line for line in log.splitlines() if start in line]
    assert 1 <= len(said) <= 6, said  # when it changes, else every minute
    stack.up()
    stack.wait_for(lambda: stack.is_complete("without"), 900, "it is complete")
    account.take(
        stack,
        "without",
        before,
        "the only report worker (docker kill)",
        "named in status, log and numbers; docker compose up -d",
    )
