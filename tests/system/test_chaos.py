"""The small version of the chaos harness; ``make chaos`` runs the whole of it, and the experiments marked ``long``."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backlog.broker.celery_app import make_app
from backlog.broker.claim import Claim
from backlog.broker.claims import Claims, Refusal
from backlog.broker.messages import Stage
from backlog.environment import from_environment
from backlog.outcomes import Outcome, Reason
from producer.ledger.ledger import Ledger
from tests.chaos import deaths, followed, foreign, mid_store, peer
from tests.chaos.account import Ending, settle
from tests.chaos.images import Image, Kind, number_in, scores_for, squares
from tests.chaos.table import Finding
from tests.conftest import need
from tests.support.newer_orthanc import lacking
from tests.support.servers import RedisServer
from worker.pixels.resize import resize


@pytest.fixture(autouse=True)
def _servers_are_installed() -> Iterator[None]:
    need("redis-server")
    need("Orthanc")
    yield


def assert_clean(found: Finding) -> None:
    assert (found.lost, found.duplicate, found.wrongly_quarantined, found.wrong) == (0, 0, 0, 0), found


# -- the experiments ---------------------------------------------------------------------------------------


@pytest.mark.timeout(900)
def test_killed_workers_lose_and_double_nothing(tmp_path: Path) -> None:
    found = deaths.killed_workers(tmp_path, items=300, kills=8, every=1.0, limit=200)
    assert_clean(found)
    assert found.passed, found


@pytest.mark.timeout(900)
@pytest.mark.long
def test_killed_redis_and_producers_lose_and_double_nothing(tmp_path: Path) -> None:
    found = deaths.killed_servers(tmp_path, items=300, redis=2, flushes=1, producers=2, limit=200)
    assert_clean(found)
    assert found.passed, found


@pytest.mark.timeout(900)
@pytest.mark.long
def test_servers_that_others_configured_lose_and_double_nothing(tmp_path: Path) -> None:
    """The whole experiment takes every case at both versions of Orthanc."""
    found = foreign.foreign(
        tmp_path, items=24, limit=200, cases=("LimitFindResults",), versions=("installed",)
    )
    assert_clean(found)
    assert (found.items, found.passed) == (24, True), found
    if not lacking("1.12"):
        refused = foreign.foreign(tmp_path, items=24, limit=60, cases=("ReadOnly",), versions=("1.12",))
        assert refused.passed, refused


@pytest.mark.timeout(900)
@pytest.mark.long
def test_an_orthanc_killed_in_mid_store_costs_nothing(tmp_path: Path) -> None:
    found = mid_store.mid_store(tmp_path, items=200, kills=2, limit=200)
    assert_clean(found)
    assert found.passed, found


@pytest.mark.timeout(900)
@pytest.mark.long
def test_a_peer_that_fails_at_random_costs_nothing(tmp_path: Path) -> None:
    found = peer.failing_peer(tmp_path, items=40, outages=1, silence=25, limit=300)
    assert_clean(found)
    assert found.passed, found


@pytest.mark.timeout(900)
@pytest.mark.long
def test_a_killed_producer_of_a_followed_source_costs_nothing(tmp_path: Path) -> None:
    found = followed.followed(tmp_path, items=60, kills=4, limit=200)
    assert_clean(found)
    assert found.passed, found


@pytest.mark.timeout(900)
@pytest.mark.long
def test_only_poison_is_quarantined_and_for_its_reason(tmp_path: Path) -> None:
    # So few images show no throughput: the whole harness measures that.
    found = deaths.poison(tmp_path, items=240, share=1 / 60, limit=200, least=0)
    assert_clean(found)


@pytest.mark.timeout(900)
@pytest.mark.long
def test_without_reconcile_the_harness_sees_what_is_lost(tmp_path: Path) -> None:
    found = deaths.without_reconcile(tmp_path, items=300, kills=6, every=1.0, quiet=12)
    assert found.lost > 0, found


# -- the checker -------------------------------------------------------------------------------------------

SOUND = [Image(number, Kind.SOUND) for number in range(3)]
POISON = Image(3, Kind.KILLER)
REPORTS = {f"sr-{image.number}": (image.sop_instance_uid, scores_for(image.number)) for image in SOUND}
ENDED = {
    image.number: Ending(Outcome.REPORTED.value, "", image.sop_instance_uid, f"sr-{image.number}")
    for image in SOUND
} | {3: Ending(Outcome.QUARANTINED.value, Reason.KILLED_WORKER.value, "", "")}


def test_the_checker_finds_a_clean_account_clean() -> None:
    assert settle([*SOUND, POISON], ENDED, REPORTS).clean


def test_the_checker_sees_each_kind_of_harm() -> None:
    everything = [*SOUND, POISON]
    gone = {name: report for name, report in REPORTS.items() if name != "sr-1"}
    assert settle(everything, ENDED, gone).lost == 1
    silent = {number: ending for number, ending in ENDED.items() if number != 2}
    assert settle(everything, silent, REPORTS).lost == 1
    twice = REPORTS | {"sr-again": REPORTS["sr-0"]}
    assert settle(everything, ENDED, twice).duplicate == 1
    given_up = ENDED | {0: Ending(Outcome.QUARANTINED.value, Reason.INTERNAL_ERROR.value, "", "")}
    account = settle(everything, given_up, REPORTS)
    assert (account.duplicate, account.wrongly_quarantined) == (1, 1)  # it has a report all the same
    swapped = REPORTS | {"sr-0": (SOUND[0].sop_instance_uid, scores_for(1))}
    assert settle(everything, ENDED, swapped).wrong == 1
    misjudged = ENDED | {3: replace(ENDED[3], reason=Reason.UNDECODABLE.value)}
    assert settle(everything, misjudged, REPORTS).wrong == 1
    scored = REPORTS | {"sr-3": (POISON.sop_instance_uid, scores_for(3))}
    account = settle(everything, ENDED, scored)
    assert (account.duplicate, account.wrong) == (1, 1)


@pytest.mark.parametrize("number", [0, 1, 4711, (1 << 24) - 1])
def test_the_number_in_a_picture_survives_its_way_to_the_model(number: int) -> None:
    stored = squares(number, Kind.KILLER)
    seen = resize(stored, 2048 / 4095, -1024)
    assert number_in(seen) == (number, Kind.KILLER)


# -- what the harness found, in small ----------------------------------------------------------------------


def claimed(claims: Claims, stage: Stage) -> Claim:
    found = claims.claim("run", 0, stage, Stage.UPLOAD)
    assert not isinstance(found, Refusal), found
    return found


def die(claims: Claims) -> None:
    """Let the lease of a worker that died run out."""
    claims.broker.client.hdel("cxr:run:c:0", "lease")


def test_a_restarted_chunk_is_isolated_where_its_worker_died(redis_url: str) -> None:
    """Found: attempts were forgotten when an earlier stage ended, so poison killed workers for ever."""
    claims = Claims(redis_url)
    for death in range(3):
        claimed(claims, Stage.UPLOAD).finish(Stage.INFER, {})
        doomed = claimed(claims, Stage.INFER)
        assert doomed.isolated == (death > 0)
        if doomed.isolated:
            doomed.set_current_item(5)
        die(claims)
        assert claims.restart("run", 0, Stage.UPLOAD)
    last = claimed(claims, Stage.UPLOAD)
    assert last.finished_items == {5}
    record = claims.records("run", 0)[5]
    assert (record["reason"], record["stage"]) == (Reason.KILLED_WORKER.value, Stage.INFER.value)


def test_nobody_works_on_a_message_that_comes_back_after_the_run(redis_url: str) -> None:
    """Found: it was worked on again, and stored reports that may have been retracted since."""
    claims = Claims(redis_url)
    claims.drop("run")
    assert claims.claim("run", 0, Stage.UPLOAD, Stage.UPLOAD) is Refusal.CANCELLED


@pytest.mark.parametrize("how", ["ack", "requeue"])
def test_a_message_that_cannot_be_settled_takes_no_place(tmp_path: Path, how: str) -> None:
    """Found: after a black hole between worker and Redis the worker never took another message."""
    server = RedisServer(tmp_path / "redis")
    server.start()
    try:
        app = make_app(from_environment({"CXR_REDIS_URL": server.url}))
        app.send_task("upload", queue="upload")
        with app.connection() as connection, connection.channel() as channel:
            channel.basic_qos(0, 1, False)
            message = channel.basic_get("upload")
            assert not channel.qos.can_consume()
            server.stop(9)
            with pytest.raises(connection.connection_errors):
                getattr(message, how)()
            assert channel.qos.can_consume()
            server.start()
    finally:
        server.stop()


def test_finding_chunks_in_flight_scans_no_ended_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: with every chunk that ended the producer's tick took longer."""
    connect, statements = sqlite3.connect, list[str]()

    def traced(*arguments: Any, **more: Any) -> sqlite3.Connection:
        database: sqlite3.Connection = connect(*arguments, **more)
        database.set_trace_callback(statements.append)
        return database

    monkeypatch.setattr(sqlite3, "connect", traced)
    ledger = Ledger.create(tmp_path / "ledger.sqlite", {})
    statements.clear()
    ledger.waiting(5)
    ledger.in_flight()
    queries = list(statements)
    assert len(queries) == 2
    for query in queries:
        plan = list(ledger.select(lambda *columns: str(columns[-1]), f"EXPLAIN QUERY PLAN {query}"))
        assert "chunk_open" in plan[0], plan
        assert not [step for step in plan if "SCAN" in step], plan
    ledger.close()
