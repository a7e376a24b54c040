"""Who works on a chunk: against a real Redis, with every way in which a worker can go away."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from backlog.broker.celery_app import make_app
from backlog.broker.claim import Claim
from backlog.broker.claims import MAX_WORKER_CRASHES, Claims, Refusal
from backlog.broker.connection import Broker
from backlog.broker.job import Job
from backlog.broker.messages import QUEUES, ItemRecord, ReportItem, Stage
from backlog.broker.sending import send
from backlog.errors import ClaimLost, ServiceUnavailable, StorageFull, UsageError
from backlog.settings import Settings
from tests.support.servers import RedisServer, free_port, wait_until

RUN = "run1"
UPLOAD, INFER, REPORT, FINISHED = Stage.UPLOAD, Stage.INFER, Stage.REPORT, Stage.FINISHED


@pytest.fixture
def claims(redis_url: str) -> Iterator[Claims]:
    """Claims whose leases no pause of a busy machine outlasts: where one is to end, `end_the_lease` ends it."""
    made = Claims(redis_url, lease_seconds=60)
    yield made
    made.broker.close()


def won(claims: Claims, stage: Stage = UPLOAD, chunk: int = 1, first: Stage = UPLOAD) -> Claim:
    claim = claims.claim(RUN, chunk, stage, first)
    assert isinstance(claim, Claim), claim
    return claim


def record(reason: str = "") -> ItemRecord:
    return {"outcome": "quarantined" if reason else "reported", "reason": reason, "stage": 0}


def end_the_lease(claims: Claims, chunk: int = 1) -> None:
    """Have the lease run out, as it does where nobody renews it."""
    assert claims.broker.client.hset(f"cxr:{RUN}:c:{chunk}", "lease", 1) == 0
    assert not claims.progress(RUN, [chunk])[chunk].leased


def dies(claims: Claims, item: int | None = None, stage: Stage = UPLOAD, chunk: int = 1) -> Claim:
    """Claim a chunk, perhaps begin an item, and never be heard of again."""
    claim = won(claims, stage, chunk)
    if item is not None:
        claim.set_current_item(item)
    end_the_lease(claims, chunk)
    return claim


# -- one worker at a time ------------------------------------------------------------------------------------


def test_a_chunk_goes_through_its_stages(claims: Claims) -> None:
    for stage in (UPLOAD, INFER, REPORT):
        assert claims.progress(RUN, [1]) == {} or claims.progress(RUN, [1])[1].stage is stage
        with won(claims, stage) as claim:
            assert claims.progress(RUN, [1])[1].leased
            claim.finish(Stage(stage + 1), {})
        assert not claims.progress(RUN, [1])[1].leased
    assert claims.progress(RUN, [1])[1].stage is FINISHED


def test_a_second_worker_finds_it_busy(claims: Claims) -> None:
    won(claims)
    assert claims.claim(RUN, 1, UPLOAD, UPLOAD) is Refusal.BUSY
    won(claims, chunk=2)  # another chunk is free


def test_what_was_done_is_not_done_again(claims: Claims) -> None:
    won(claims).finish(INFER, {})
    assert claims.claim(RUN, 1, UPLOAD, UPLOAD) is Refusal.DONE


def test_a_message_of_a_later_stage_is_stale_before_its_turn(claims: Claims) -> None:
    assert (
        claims.claim(RUN, 1, INFER, UPLOAD) is Refusal.STALE
    )  # nothing is known of the chunk: it begins anew
    won(claims)
    assert claims.claim(RUN, 1, REPORT, UPLOAD) is Refusal.STALE
    assert claims.claim(RUN, 2, INFER, INFER) not in list(Refusal)  # this run begins there


def test_a_cancelled_run_is_refused_until_it_goes_on(claims: Claims) -> None:
    claims.set_state(RUN, "cancelled")
    assert claims.claim(RUN, 1, UPLOAD, UPLOAD) is Refusal.CANCELLED
    claims.set_state(RUN, "running")
    won(claims)


def test_of_many_at_once_one_wins(claims: Claims) -> None:
    answers: list[Claim | Refusal] = []
    start = threading.Barrier(16)

    def ask() -> None:
        start.wait()
        answers.append(claims.claim(RUN, 1, UPLOAD, UPLOAD))

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(one, Claim) for one in answers) == 1
    assert answers.count(Refusal.BUSY) == 15


# -- leases --------------------------------------------------------------------------------------------------


def lease_left(claims: Claims) -> float:
    """Return how many ms the lease still has, by the Redis server's clock."""
    seconds, micros = claims.broker.client.time()
    until = claims.broker.client.hget(f"cxr:{RUN}:c:1", "lease")
    return float(str(until)) - 1000 * seconds - micros / 1000


@pytest.mark.timeout(60, func_only=True)
def test_a_slow_item_keeps_its_lease(claims: Claims) -> None:
    with won(claims) as claim:
        for _ in range(2):
            claims.broker.client.hincrby(claim.key, "lease", -claims.lease_ms // 2)  # half of it has passed
            wait_until(lambda: lease_left(claims) > claims.lease_ms / 2, what="it is renewed")
            assert lease_left(claims) <= claims.lease_ms
            assert claims.claim(RUN, 1, UPLOAD, UPLOAD) is Refusal.BUSY
            claim.check()
        claim.finish(INFER, {})
    assert claims.claim(RUN, 1, UPLOAD, UPLOAD) is Refusal.DONE


@pytest.mark.timeout(60, func_only=True)
def test_a_lease_that_nobody_renews_ends_by_itself(claims: Claims, redis_url: str) -> None:
    brief = Claims(redis_url, lease_seconds=0.2)
    won(brief)
    wait_until(lambda: claims.claim(RUN, 1, UPLOAD, UPLOAD) is not Refusal.BUSY, what="the lease runs out")
    assert claims.claim(RUN, 1, UPLOAD, UPLOAD) is Refusal.BUSY  # it has a new one
    brief.broker.close()


def test_a_silent_worker_loses_its_chunk_and_changes_no_more(claims: Claims) -> None:
    old = dies(claims)
    new = won(claims)
    assert new.attempt == 2
    before = claims.broker.client.hgetall(new.key)
    with pytest.raises(ClaimLost):
        old.set_current_item(3)
    with pytest.raises(ClaimLost):
        old.finish(INFER, {0: record("blank")})
    old.release()
    old.release(counts=True)
    assert claims.broker.client.hgetall(new.key) == before  # none of it touched the new owner's lease
    assert claims.claim(RUN, 1, UPLOAD, UPLOAD) is Refusal.BUSY
    new.finish(INFER, {0: record()})
    assert claims.records(RUN, 1) == {0: record()}


@pytest.mark.timeout(60, func_only=True)
def test_a_worker_that_wakes_up_too_late_notices(claims: Claims) -> None:
    old = dies(claims)
    won(claims)
    with old:  # begins to renew again, as after a long swap
        wait_until(lambda: _lost(old), what="the heartbeat notices")


def _lost(claim: Claim) -> bool:
    try:
        claim.check()
    except ClaimLost:
        return True
    return False


@pytest.mark.timeout(60, func_only=True)
def test_cancelling_reaches_a_worker_in_the_middle(claims: Claims) -> None:
    with won(claims) as claim:
        claims.set_state(RUN, "cancelled")
        wait_until(lambda: _lost(claim), what="the heartbeat notices")


def test_a_redis_that_forgets_everything_fences_every_worker(claims: Claims) -> None:
    claim = won(claims)
    claims.broker.client.flushall()
    with pytest.raises(ClaimLost):
        claim.finish(INFER, {})
    assert claims.progress(RUN, [1]) == {}


# -- attempts and deaths -------------------------------------------------------------------------------------


def test_the_first_attempt_runs_together_and_the_next_one_by_one(claims: Claims) -> None:
    assert not dies(claims).isolated
    assert won(claims).isolated


def test_handing_back_counts_no_attempt(claims: Claims) -> None:
    for _ in range(3):
        claim = won(claims)
        assert claim.attempt == 1
        claim.release()


def test_a_bug_counts_as_an_attempt(claims: Claims) -> None:
    won(claims).release(counts=True)
    assert won(claims).attempt == 2


def test_attempts_are_counted_for_each_stage(claims: Claims) -> None:
    dies(claims)
    second = won(claims)
    second.finish(INFER, {})
    assert not won(claims, INFER).isolated


def test_an_item_at_which_workers_die_is_quarantined(claims: Claims) -> None:
    dies(claims)  # the first attempt leaves no current-item mark
    for _ in range(MAX_WORKER_CRASHES):
        dies(claims, item=5)
    claim = won(claims)
    assert claim.finished_items == {5}
    claim.set_current_item(6)
    claim.finish(INFER, {5: record(), 6: record()})  # what was decided stays so
    held = claims.records(RUN, 1)
    assert held[5]["reason"] == "killed_worker"
    assert held[5]["attempts"] == MAX_WORKER_CRASHES
    assert held[5]["outcome"] == "quarantined"
    assert held[6] == record()


def test_a_single_death_blames_no_one(claims: Claims) -> None:
    dies(claims)
    dies(claims, item=5)
    dies(claims, item=6)  # item 5 was survived
    assert won(claims).finished_items == set()


def test_deaths_at_a_later_stage_are_told_apart_in_the_record(claims: Claims) -> None:
    won(claims).finish(INFER, {})
    for _ in range(MAX_WORKER_CRASHES):
        dies(claims, item=2, stage=INFER)
    won(claims, INFER).finish(REPORT, {})
    assert claims.records(RUN, 1)[2]["stage"] == INFER.value


# -- the producer's side -------------------------------------------------------------------------------------


def test_a_lost_chunk_is_put_back_to_its_first_stage(claims: Claims) -> None:
    won(claims).finish(INFER, {3: record("blank")})
    assert claims.restart(RUN, 1, UPLOAD)
    assert claims.claim(RUN, 1, INFER, UPLOAD) is Refusal.STALE
    assert won(claims).finished_items == {3}


def test_deaths_survive_a_restart(claims: Claims) -> None:
    dies(claims)
    dies(claims, item=5)
    assert claims.restart(RUN, 1, UPLOAD)
    dies(claims, item=5)
    assert won(claims).finished_items == {5}


def test_a_chunk_at_work_or_finished_is_not_put_back(claims: Claims) -> None:
    claim = won(claims)
    assert not claims.restart(RUN, 1, UPLOAD)
    claim.finish(FINISHED, {0: record()})
    assert not claims.restart(RUN, 1, UPLOAD)
    assert claims.records(RUN, 1) == {0: record()}


def test_a_chunk_that_redis_forgot_is_put_back(claims: Claims) -> None:
    assert claims.restart(RUN, 1, INFER)
    won(claims, INFER, first=INFER)


def test_what_is_harvested_is_forgotten_but_never_done_again(claims: Claims) -> None:
    won(claims).finish(FINISHED, {0: record()})
    claims.forget(RUN, [1])
    assert claims.records(RUN, 1) == {}
    assert claims.progress(RUN, [1]) == {}
    for stage in (UPLOAD, INFER, REPORT):
        assert claims.claim(RUN, 1, stage, UPLOAD) is Refusal.DONE
    won(claims, chunk=2)


def test_what_was_harvested_after_a_ledgers_backup_is_done_again(claims: Claims) -> None:
    """Found: a ledger that came back from a backup never ended, since Redis knew its chunks as done."""
    for chunk in (1, 2, 3):
        won(claims, chunk=chunk).finish(FINISHED, {0: record()})
    claims.forget(RUN, [1, 2, 3])
    assert claims.restart(RUN, 1, UPLOAD)  # in flight by the ledger
    claims.reopen(RUN, [2])  # waiting by the ledger
    won(claims, chunk=1)
    won(claims, chunk=2)
    assert claims.claim(RUN, 3, UPLOAD, UPLOAD) is Refusal.DONE


def test_a_chunk_that_is_sent_anew_is_lost_to_its_worker(claims: Claims) -> None:
    claim = won(claims)
    claims.reopen(RUN, [1])
    with pytest.raises(ClaimLost):
        claim.finish(FINISHED, {0: record()})
    won(claims)


def test_how_long_a_stage_took_is_kept(claims: Claims) -> None:
    before, began = time.time(), time.monotonic()
    won(claims).finish(INFER, {}, items=7)
    after, most = time.time(), 1000 * (time.monotonic() - began)
    (stage, took), *others = claims.times(RUN, 1).items()
    assert (stage, took["items"], took["attempt"], others) == (UPLOAD, 7, 1, [])
    assert 0 <= took["ms"] <= most + 1
    assert before - 1 <= took["at"] / 1000 <= after + 1


def job(run: str = RUN) -> Job:
    return cast("Job", {"run": run, "weights": "", "source": {"kind": "zip", "path": "", "listing": ""}})


def test_what_waits_longest_and_what_is_taken_is_found(claims: Claims, redis_url: str) -> None:
    app = make_app(Settings(redis_url=redis_url))
    for stage, chunk in ((UPLOAD, 1), (INFER, 2), (REPORT, 300)):
        claims.messages.mark_sent(RUN, [chunk])
        send(app, stage, job(), chunk, [{"i": 0}])
    send(app, UPLOAD, job("run2"), 4, [])
    app.send_task("upload", task_id="somebody-elses", queue="upload")
    broker = claims.broker
    assert broker.depths(QUEUES.values()) == {"retrieve": 0, "upload": 3, "inference": 1, "report": 1}
    assert broker.oldest(["upload", "nothing"]) == {"upload": (RUN, 1, UPLOAD)}
    sent = claims.messages.sent(RUN, [1, 2, 300, 4])
    assert sorted(sent) == [1, 2, 300]
    assert claims.messages.oldest_sent(QUEUES.values()) == {
        "upload": sent[1],
        "inference": sent[2],
        "report": sent[300],
    }
    with app.connection_for_read() as connection, connection.SimpleQueue("inference") as queue:
        message = queue.get(timeout=60)  # taken and not acknowledged
        assert broker.taken(RUN) == {2}
        assert "inference" not in claims.messages.oldest_sent(QUEUES.values())
        message.ack()
        wait_until(lambda: not broker.taken(RUN), 60)
    app.close()


def test_a_message_of_others_at_the_head_of_a_queue_is_no_time(claims: Claims, redis_url: str) -> None:
    app = make_app(Settings(redis_url=redis_url))
    app.send_task("upload", task_id="somebody-elses", queue="upload")
    assert claims.broker.oldest(["upload"]) == {"upload": None}
    assert claims.messages.oldest_sent(["upload"]) == {"upload": 0}
    assert claims.messages.waiting_seconds(["upload", "report"]) == {"upload": 0.0, "report": 0.0}
    app.close()


def test_messages_say_nothing_of_a_patient(claims: Claims, redis_url: str) -> None:
    """Flower and the workers' logs show the printed form of a task."""
    app = make_app(Settings(redis_url=redis_url))
    item: ReportItem = {"i": 0, "instance": "0123abcd", "scores": [0.5], "flags": []}
    send(app, REPORT, job(), 1, [item])
    (text,) = cast("list[str]", claims.broker.client.lrange("report", 0, -1))
    headers = json.loads(text)["headers"]
    assert headers["argsrepr"] == f"(run={RUN}, chunk=1, n=1)"
    assert headers["kwargsrepr"] == "{}"
    app.close()


def test_a_run_that_is_over_leaves_only_that_it_is_over(claims: Claims) -> None:
    won(claims).finish(FINISHED, {})
    claims.forget(RUN, [1])
    won(claims, chunk=2)
    claims.tell(RUN, "x")
    claims.broker.client.set("somebody", "else")
    claims.drop(RUN)
    assert sorted(cast("list[str]", claims.broker.client.keys())) == [f"cxr:{RUN}", "somebody"]
    assert claims.claim(RUN, 2, UPLOAD, UPLOAD) is Refusal.CANCELLED


def test_another_run_with_a_longer_name_is_left_alone(claims: Claims) -> None:
    other = claims.claim(RUN + "0", 1, UPLOAD, UPLOAD)
    assert isinstance(other, Claim)
    claims.drop(RUN)
    other.finish(INFER, {})


def test_every_key_of_an_abandoned_run_expires(claims: Claims) -> None:
    claims.set_state(RUN, "running")
    won(claims).finish(FINISHED, {})
    claims.forget(RUN, [1])
    won(claims, chunk=2)
    claims.restart(RUN, 3, UPLOAD)
    claims.reopen(RUN, [4])
    claims.tell(RUN, "x")
    for key in cast("list[str]", claims.broker.client.keys()):
        assert claims.broker.client.ttl(key) > 0, key


def test_trouble_is_told_and_forgotten(claims: Claims) -> None:
    assert claims.waiting_reason(RUN) == ""
    claims.tell(RUN, "the PACS is unavailable")
    assert claims.waiting_reason(RUN) == "the PACS is unavailable"
    assert claims.waiting_reason("run2") == ""


def test_what_workers_say_can_not_rewrite_a_terminal(claims: Claims) -> None:
    claims.tell(RUN, "away\x1b[2J\nnow")
    assert claims.waiting_reason(RUN) == "away?[2J?now"


# -- a Redis that can't or won't -----------------------------------------------------------------------------


@contextmanager
def own_redis(folder: Path, *options: str) -> Iterator[RedisServer]:
    server = RedisServer(folder)
    server.start()
    try:
        for name, value in zip(options[::2], options[1::2], strict=True):
            server.client.config_set(name, value)
        yield server
    finally:
        server.stop(9)


def test_a_full_redis_is_waited_for(redis_server: RedisServer, tmp_path: Path) -> None:
    with own_redis(tmp_path, "maxmemory", "1") as server:
        claims = Claims(server.url)
        claims.broker.ping()
        for write in (
            lambda: claims.claim(RUN, 1, UPLOAD, UPLOAD),
            lambda: claims.set_state(RUN, "running"),
            lambda: claims.tell(RUN, "x"),
            lambda: claims.restart(RUN, 1, UPLOAD),
        ):
            with pytest.raises(StorageFull, match="takes no writes"):
                write()
        server.client.config_set("maxmemory", "0")
        won(claims)
        claims.broker.close()


def test_a_full_redis_still_lets_a_chunk_go(redis_server: RedisServer, tmp_path: Path) -> None:
    """Harvested chunks make room: forgetting must not need any."""
    with own_redis(tmp_path) as server:
        claims = Claims(server.url)
        won(claims).finish(FINISHED, {0: record()})
        server.client.config_set("maxmemory", "1")
        assert claims.records(RUN, 1)
        try:
            claims.forget(RUN, [1])
        except StorageFull:
            # The bitmap takes a byte. The claim has to stay then: a redelivery would begin anew.
            assert claims.records(RUN, 1)
        claims.broker.close()


def test_a_wrong_password_is_the_users_to_fix(redis_server: RedisServer, tmp_path: Path) -> None:
    with own_redis(tmp_path) as server:
        server.client.config_set("requirepass", "right")
        for url in (server.url, server.url.replace("//", "//:wrong@")):
            with pytest.raises(UsageError, match="CXR_REDIS_PASSWORD") as error:
                Claims(url).broker.ping()
            assert "wrong" not in str(error.value)
        Claims(Settings(redis_url=server.url, redis_password="right").broker).broker.ping()


def test_a_user_without_permission_is_the_users_to_fix(redis_server: RedisServer, tmp_path: Path) -> None:
    with own_redis(tmp_path) as server:
        server.client.acl_setuser(
            "poor", enabled=True, passwords=["+secret"], keys=["other:*"], commands=["+ping", "+get"]
        )
        with pytest.raises(UsageError, match="refuses the user"):
            Claims(server.url.replace("//", "//poor:secret@")).waiting_reason(RUN)


@pytest.mark.parametrize("url", ["", "localhost:6379", "http://host", "redis://host:port/0", "redis://[::1"])
def test_an_address_that_is_none_is_the_users_to_fix(url: str) -> None:
    with pytest.raises(UsageError, match="CXR_REDIS_URL"):
        Claims(url)


def test_a_redis_that_is_unavailable_is_waited_for(tmp_path: Path) -> None:
    claims = Claims(f"redis://127.0.0.1:{free_port()}/0")
    calls: list[Any] = [
        claims.broker.ping,
        lambda: claims.broker.depths(QUEUES.values()),
        lambda: claims.claim(RUN, 1, UPLOAD, UPLOAD),
        lambda: claims.progress(RUN, [1]),
        lambda: claims.broker.taken(RUN),
        lambda: claims.messages.oldest_sent(QUEUES.values()),
        lambda: claims.messages.sent(RUN, [1]),
        lambda: claims.park(RUN, []),
        lambda: claims.forget(RUN, [1]),
        Claims(f"redis+socket://{tmp_path}/none.sock").broker.ping,
    ]
    for call in calls:
        with pytest.raises(ServiceUnavailable, match="Redis is unavailable"):
            call()


def test_a_redis_that_restarts_breaks_no_claim(redis_server: RedisServer, tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.start()
    claims = Claims(server.url)
    claim = won(claims)
    server.stop(9)
    with pytest.raises(ServiceUnavailable), claim:
        claim.finish(INFER, {})
    server.start()
    with pytest.raises(ClaimLost):
        claim.finish(INFER, {})
    won(claims)
    claims.broker.close()
    server.stop(9)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (redis.BusyLoadingError("LOADING Redis is loading the dataset in memory"), ServiceUnavailable),
        (redis.ResponseError("LOADING"), ServiceUnavailable),
        (redis.ResponseError("MASTERDOWN Link with MASTER is down"), ServiceUnavailable),
        (redis.ResponseError("BUSY Redis is busy running a script"), ServiceUnavailable),
        (redis.ResponseError("MISCONF Errors writing to the AOF file"), StorageFull),
        (redis.ReadOnlyError("READONLY You can't write against a read only replica."), StorageFull),
        (redis.TimeoutError("Timeout reading from socket"), ServiceUnavailable),
        (redis.ResponseError("ERR unknown command"), redis.ResponseError),  # a bug stays loud
    ],
)
def test_what_redis_answers_is_told_apart(error: Exception, kind: type[Exception]) -> None:
    """States that last too shortly, or need a second server, to be made here: the answers are Redis's own."""
    with pytest.raises(kind) as raised, Broker("redis://127.0.0.1:1/0").reached():
        raise error
    assert type(raised.value) is kind


@pytest.mark.timeout(60, func_only=True)
def test_a_stopped_redis_does_not_stop_us_for_ever(redis_server: RedisServer, tmp_path: Path) -> None:
    """SIGSTOP: it accepts and never answers."""
    with own_redis(tmp_path) as server:
        claims = Claims(server.url)
        claims.broker.ping()
        claims.broker.client.connection_pool.connection_kwargs["socket_timeout"] = (
            0.3  # ten seconds otherwise
        )
        claims.broker.client.connection_pool.reset()
        assert server.process is not None
        server.process.send_signal(19)
        with pytest.raises(ServiceUnavailable):
            claims.broker.depths(QUEUES.values())
        server.process.send_signal(18)
        claims.broker.close()
