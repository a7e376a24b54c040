"""Runs on Kubernetes: how many workers there are, how one stops, and what a job makes of how its producer ends."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from backlog.broker.celery_app import make_app
from backlog.broker.messages import QUEUES, TASKS, Stage
from backlog.broker.queues import queue_of
from backlog.model import DEFAULT_MODEL
from backlog.settings import Settings
from backlog.weights import RELEASE_SHA256
from producer.cli import options
from tests.support.jobs import a_job
from tests.support.manifests import Built, Manifest, build, environment, need_kubectl, of, pods, prepare
from tests.support.servers import ROOT, RedisServer
from worker.health import ALIVE

WORKERS = {
    "worker-retrieve": Stage.RETRIEVE,
    "worker-upload": Stage.UPLOAD,
    "worker-inference": Stage.INFER,
    "worker-report": Stage.REPORT,
}

#: What KEDA has Redis do for its trigger of type redis: a length, whatever the key's type.
LENGTH = """
local of = { list = 'llen', hash = 'hlen', set = 'scard', zset = 'zcard', none = 'llen' }
return redis.call(of[redis.call('type', KEYS[1]).ok], KEYS[1])
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    need_kubectl()
    return build(prepare(tmp_path_factory.mktemp("site")))


def queues_for(stage: Stage) -> set[str]:
    """Return what a worker with the released weights takes from at one stage."""
    return {QUEUES[stage], queue_of(stage, a_job("run", weights=RELEASE_SHA256[DEFAULT_MODEL]))}


def scaled(built: Built, overlay: str) -> dict[str, Manifest]:
    return {name: one["spec"] for name, one in of(built[overlay], "ScaledObject").items()}


@pytest.mark.parametrize("overlay", ["overlays/keda", "overlays/gpu"])
def test_every_stage_is_scaled_on_what_waits_and_what_is_held(built: Built, overlay: str) -> None:
    deployments = of(built[overlay], "Deployment")
    assert set(scaled(built, overlay)) == set(WORKERS)
    for name, spec in scaled(built, overlay).items():
        assert spec["scaleTargetRef"] == {"kind": "Deployment", "name": name}
        assert "replicas" not in deployments[name]["spec"], "applying again would set KEDA's number back"
        modifiers = spec["advanced"]["scalingModifiers"]
        lists = {one["name"]: one["metadata"]["listName"] for one in spec["triggers"]}
        assert set(lists.values()) == {*queues_for(WORKERS[name]), "unacked"}
        assert set(modifiers["formula"].split(" + ")) == set(lists)
        assert 0 <= spec["minReplicaCount"] < spec["maxReplicaCount"]


def test_without_keda_numbers_are_fixed(built: Built) -> None:
    deployments = of(built["base"], "Deployment")
    assert all(deployments[name]["spec"]["replicas"] >= 1 for name in WORKERS)


def test_keda_reaches_the_redis_of_the_workers(built: Built) -> None:
    manifests = built["overlays/keda"]
    settings = next(data for name, data in of(manifests, "ConfigMap").items() if name.startswith("settings-"))
    url = urlsplit(settings["data"]["CXR_REDIS_URL"])
    (door,) = of(manifests, "TriggerAuthentication").values()
    for ref in door["spec"]["secretTargetRef"]:
        assert ref["key"] in of(manifests, "Secret")[ref["name"]]["data"]
    for spec in scaled(built, "overlays/keda").values():
        for trigger in spec["triggers"]:
            assert trigger["authenticationRef"]["name"] == door["metadata"]["name"]
            told = trigger["metadata"]
            namespace = of(manifests, "Service")[str(url.hostname)]["metadata"]["namespace"]
            assert told["address"] == f"{url.hostname}.{namespace}.svc:{url.port}"
            assert (told["username"], f"/{told['databaseIndex']}") == (url.username, url.path)


@pytest.fixture
def user(redis_server: RedisServer, redis_url: str) -> Iterator[redis.Redis]:
    """Redis's user cxr, with the rights that deploy/redis.sh gives."""
    line = next(line for line in (ROOT / "deploy/redis.sh").read_text().splitlines() if "user cxr" in line)
    rights = [word if not word.startswith("#") else ">secret" for word in line.split()[2:]]
    redis_server.client.execute_command("ACL", "SETUSER", "cxr", "reset", *rights)  # type: ignore[no-untyped-call]
    client = redis.Redis(port=redis_server.port, username="cxr", password="secret", decode_responses=True)
    yield client
    client.close()
    redis_server.client.acl_deluser("cxr")


def test_a_chunk_that_a_worker_holds_is_counted(redis_url: str, user: redis.Redis) -> None:
    """The queue's list is empty while the last chunk is scored; what is held makes up for it."""
    app = make_app(Settings(redis_url=redis_url))
    queue = QUEUES[Stage.INFER]

    def lengths() -> list[int]:
        return [int(str(user.eval(LENGTH, 1, key))) for key in (queue, "unacked")]

    assert lengths() == [0, 0]
    app.send_task(TASKS[Stage.INFER], args=({}, 0, []))
    assert lengths() == [1, 0]
    with app.connection() as connection, connection.SimpleQueue(queue) as worker:
        message = worker.get(timeout=10)
        assert lengths() == [0, 1]
        message.ack()
    assert lengths() == [0, 0]
    app.close()


def test_a_worker_has_time_to_hand_its_chunk_back(built: Built) -> None:
    """Celery's SIGTERM is a warm shutdown unless the environment says otherwise."""
    for _, name, spec in pods(built):
        if name.startswith("worker"):
            assert spec["terminationGracePeriodSeconds"] >= 40, name
            assert environment(spec)["REMAP_SIGTERM"]["value"] == "", name


def test_inference_takes_the_threads_it_is_given(built: Built) -> None:
    for source, name, spec in pods(built):
        if name == "worker-inference":
            ref = environment(spec)["CXR_THREADS"]["valueFrom"]["resourceFieldRef"]
            assert ref == {"containerName": "worker", "resource": "limits.cpu"}
            limits = spec["containers"][0]["resources"]["limits"]
            assert int(limits["cpu"]) >= 1
            assert ("nvidia.com/gpu" in limits) == (source == "overlays/gpu")


def test_probes_tell_a_live_worker_from_a_dead_one(built: Built, tmp_path: Path) -> None:
    """The commands themselves, at a file of our own."""
    alive = tmp_path / "worker-alive"
    spec = next(spec for _, name, spec in pods(built) if name == "worker-report")

    def probe(kind: str) -> bool:
        command = spec["containers"][0][kind]["exec"]["command"]
        assert str(ALIVE) in " ".join(command)
        return not subprocess.run(
            [part.replace(str(ALIVE), str(alive)) for part in command], capture_output=True
        ).returncode

    kinds = ("startupProbe", "readinessProbe", "livenessProbe")
    assert [probe(kind) for kind in kinds] == [False, False, False]
    alive.touch()
    assert [probe(kind) for kind in kinds] == [True, True, True]
    now = alive.stat().st_mtime
    os.utime(alive, (now - 60, now - 60))
    assert [probe(kind) for kind in kinds] == [True, False, True]
    os.utime(alive, (now - 700, now - 700))
    assert [probe(kind) for kind in kinds] == [True, False, False]


def job(built: Built) -> Manifest:
    (made,) = of(built["run"], "Job").values()
    spec: Manifest = made["spec"]
    return spec


def test_a_job_ends_where_trying_again_is_no_use(built: Built) -> None:
    spec = job(built)
    moved, ended = spec["podFailurePolicy"]["rules"]
    assert moved == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert ended["action"] == "FailJob"
    assert ended["onExitCodes"]["containerName"] == spec["template"]["spec"]["containers"][0]["name"]
    assert ended["onExitCodes"]["values"] == [options.USAGE, options.QUARANTINED, options.INTERRUPTED]
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert spec["podReplacementPolicy"] == "Failed", "two producers of one run"


def produce(built: Built, out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the job's own command."""
    command = job(built)["template"]["spec"]["containers"][0]["command"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        [*command, str(out), *words], env={**os.environ, "PATH": path}, capture_output=True, text=True
    )


def test_a_job_ends_with_the_error_of_its_run(built: Built, tmp_path: Path) -> None:
    done = produce(built, tmp_path / "out", str(tmp_path / "missing.zip"))
    assert done.returncode == options.USAGE
    assert "missing.zip" in done.stderr


def test_a_new_pod_goes_on_with_the_run(built: Built, tmp_path: Path) -> None:
    """Where a ledger is there 'run' would refuse; the job resumes, and the ledger's own words come back."""
    sqlite3.connect(tmp_path / "ledger.sqlite").close()
    begun = produce(built, tmp_path, str(tmp_path / "missing.zip"))
    assert begun.returncode != 0
    assert "missing.zip" not in begun.stderr
    assert "holds a run already" not in begun.stderr
