"""Is everything there that a run needs? One finding for each thing, and what to fix.

Looks and never changes: nothing is stored in the PACS, nothing is written to Redis but the question that
workers answer, no weights are downloaded.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from backlog.broker.build_key import flower_build
from backlog.broker.connection import Broker
from backlog.broker.messages import QUEUES, Stage
from backlog.broker.queues import queue_for, stages_of
from backlog.environment import child_environment
from backlog.errors import BacklogError, UsageError
from backlog.pacs.address import without_password
from backlog.settings import Settings
from backlog.version import build
from backlog.weights import expected_sha256
from producer.doctor.check import PATIENCE, Check, room
from producer.doctor.pacs import check_pacs_of, look_ups, modalities
from producer.runner.runs import runner_build
from producer.workers.private_redis import redis_program

if TYPE_CHECKING:
    from producer.workers.worker_inventory import WorkerInfo

#: Older ones were never tried.
REDIS: Final = (6, 2)

#: A share of Redis's memory limit that leaves little room.
_NEARLY_FULL: Final = 0.8

#: How far this machine's clock may lie from Redis's, in seconds, before the times in reports look odd.
CLOCK: Final = 5.0


def examine(settings: Settings, out: Path, pacs: str = "") -> Iterator[Check]:
    """Look at everything a run needs, one by one.

    Parameters
    ----------
    settings
        The settings of this process.
    out
        Where the run's folder would be.
    pacs
        Instead of the settings' PACS.
    """
    yield _versions()
    yield from _packages()
    yield from _redis(settings)
    yield check_pacs_of(settings, pacs)
    yield from look_ups(settings, pacs)
    yield from modalities(settings, pacs)
    yield check_model(settings)
    yield room("disk", out)
    if not settings.redis_url:
        yield room("cache", settings.cache_folder)


def _versions() -> Check:
    text = f"cxr-backlog {metadata.version('cxr-backlog')}, build {build()}, Python {sys.version.split()[0]}"
    return Check("ok", "versions", text)


def _packages() -> Iterator[Check]:
    """Compare what the base needs with what is installed; extras are looked at by who uses them."""
    wrong = []
    for line in metadata.requires("cxr-backlog") or []:
        name = re.match(r"[A-Za-z0-9._-]+", line)
        if name is None or "extra ==" in line:
            continue
        try:
            metadata.version(name[0])
        except metadata.PackageNotFoundError:
            wrong.append(name[0])
    if wrong:
        yield Check(
            "BAD", "packages", f"missing: {', '.join(wrong)}", "install cxr-backlog again, with pip or uv"
        )
    else:
        yield Check("ok", "packages", "all that the producer needs is installed")
    lacking = [extra for extra, modules in EXTRAS.items() if not all(map(_installed, modules))]
    if lacking:
        needs = ", ".join(f"cxr-backlog[{extra}]" for extra in lacking)
        yield Check(
            "look", "extras", f"not installed: {', '.join(lacking)}", f"where they are wanted: {needs}"
        )


#: What an extra of the producer's brings, by package name.
EXTRAS: Final = {
    "page": ("jinja2", "matplotlib"),
    "monitor": ("prometheus-client",),
    "parquet": ("pyarrow",),
    "validate": ("scikit-learn", "scipy"),
}


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _redis(settings: Settings) -> Iterator[Check]:
    if not settings.redis_url:
        program = redis_program()
        if program is None:
            remedy = "install Debian's redis-server, or cxr-backlog[embedded], or set CXR_REDIS_URL"
            yield Check(
                "BAD", "redis", "CXR_REDIS_URL is empty, and no redis-server is here to start", remedy
            )
        else:
            yield Check("ok", "redis", f"CXR_REDIS_URL is empty: a private one is started ({program})")
        return
    from backlog.broker.claims import Claims  # redis takes 150 ms to import

    address = without_password(settings.redis_url)
    try:
        claims = Claims(settings.broker)
        claims.broker.check()
        info = claims.broker.server()
    except UsageError as error:
        yield Check("BAD", "redis", str(error), "correct what it names")
        return
    except BacklogError as error:
        yield Check("BAD", "redis", f"{address}: {error}", "start it, or correct CXR_REDIS_URL")
        return
    version = str(info.get("redis_version", "0"))
    used, most = int(info["used_memory"]), int(info.get("maxmemory", 0))
    yield Check("ok", "redis", f"{address} answers: version {version}, {used / 1e6:.0f} MB used")
    if tuple(int(part) for part in version.split(".")[:2]) < REDIS:
        yield Check(
            "BAD", "redis", f"version {version} is too old", f"install {'.'.join(map(str, REDIS))} or newer"
        )
    policy = str(info.get("maxmemory_policy", ""))
    if policy != "noeviction":
        yield Check(
            "BAD",
            "redis",
            f"maxmemory-policy is {policy}: a full Redis drops messages",
            "set it to noeviction",
        )
    if most and used > _NEARLY_FULL * most:
        yield Check("look", "redis", f"{used / most:.0%} of its memory limit is used", "raise maxmemory")
    drift = abs(time.time() - int(info.get("server_time_usec", time.time() * 1e6)) / 1e6)
    if drift > CLOCK:
        yield Check(
            "look", "clock", f"Redis's clock and this one differ by {drift:.0f} s", "let NTP set both"
        )
    yield from _workers(settings, claims.broker)


def _workers(settings: Settings, broker: Broker) -> Iterator[Check]:
    from backlog.broker.celery_app import make_app  # celery takes 300 ms to import

    try:
        with broker.reached():
            answers = make_app(settings).control.inspect(timeout=PATIENCE / 2).active_queues() or {}
    except BacklogError as error:
        yield Check("BAD", "workers", f"they can't be asked: {error}", "correct what Redis refuses")
        return
    heard = stages_of(queue["name"] for queues in answers.values() for queue in queues)
    # Images are retrieved from a modality where a user asks for that, and only then.
    needed = [queue for stage, queue in QUEUES.items() if stage is not Stage.RETRIEVE]
    deaf = [queue for queue in needed if queue not in heard]
    if deaf:
        yield Check(
            "look", "workers", f"nobody listens to {', '.join(deaf)}", "start such workers before a run"
        )
    else:
        yield Check("ok", "workers", f"{len(answers)} answer, and every queue has one")
    if answers:
        from producer.workers.worker_inventory import ask_workers

        found = ask_workers(make_app(settings))
        yield from _weights(settings, found)
        yield _builds(settings, set(answers), found)


def _weights(settings: Settings, found: Sequence[WorkerInfo]) -> Iterator[Check]:
    """Say which weights the workers have, and so from which queues they take."""
    infer = QUEUES[Stage.INFER]
    scoring = {one.weights: one.model for one in found if one.weights and infer in stages_of(one.queues)}
    if not scoring:
        return
    have = ", ".join(
        f"{model} {sha256[:12]} (queue {queue_for(infer, sha256)})" for sha256, model in scoring.items()
    )
    wanted = expected_sha256(settings.weights, settings.weights_sha256, settings.model)
    if wanted and wanted not in scoring:
        yield Check(
            "look",
            "weights",
            f"the workers have {have}, and this program's settings ask for {wanted[:12]}",
            "a run says which it wants: --weights",
        )
    else:
        yield Check("ok", "weights", f"the workers have {have}")


def _builds(settings: Settings, names: set[str], found: Sequence[WorkerInfo]) -> Check:
    """Compare this program's code with that of the workers and of the runner."""
    builds = dict.fromkeys(names, "") | {worker.name: worker.build for worker in found}
    if settings.runs_folder and (of_runner := runner_build(Path(settings.runs_folder))):
        builds["runner"] = of_runner
    with closing(Broker(settings.broker)) as broker, suppress(BacklogError):
        if of_flower := flower_build(broker):
            builds["flower"] = of_flower
    other = sorted(name for name, its in builds.items() if its != build())
    if other:
        return Check(
            "look",
            "builds",
            f"other code than this program's ({build()}): "
            + ", ".join(f"{name} ({builds[name] or 'older'})" for name in other),
            "upgrade all of them together: in the stack of containers, make up",
        )
    return Check("ok", "builds", f"all run the code of this program ({build()})")


def check_model(settings: Settings) -> Check:
    """Have the weights verified, and the engine loaded, as a worker does it; in a process of its own."""
    if settings.redis_url and not _installed("onnxruntime") and not _installed("torch"):
        return Check("ok", "model", "not on this machine: the workers verify it when they start")
    done = subprocess.run(
        [sys.executable, "-m", "worker.prepare", "--offline"],
        env=child_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    last = (done.stderr.strip().splitlines() or ["no word why"])[-1]
    state: Literal["look", "BAD"] = "look" if settings.redis_url else "BAD"  # workers may all be elsewhere
    if done.returncode == 2:  # its own word for what a user can fix
        return Check(state, "model", last, "where workers run: python -m worker.prepare, or CXR_WEIGHTS")
    if done.returncode != 0:
        return Check(state, "model", last, "where workers run: install cxr-backlog[inference]")
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    text = f"weights {answer['weights'][:12]}… are right, {answer['engine']} loads them"
    if not answer["meaningful"]:
        return Check(
            "look", "model", f"{text}; SEEDED: SCORES MEAN NOTHING", "unset CXR_WEIGHTS for a real run"
        )
    return Check("ok", "model", text)
