"""The limit of requests at the PACS, on a real Redis."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from backlog.broker.connection import Broker
from backlog.environment import from_environment
from backlog.errors import InstanceRejected, ServiceUnavailable
from backlog.outcomes import Reason
from backlog.pacs import concurrency_limit, limited_pacs
from backlog.pacs.base import Pacs
from backlog.pacs.concurrency_limit import PacsConcurrencyLimit, Rank, Turn
from backlog.pacs.connect import connect
from backlog.pacs.limited_pacs import LimitedPacs, limited
from tests.support.dicom_images import chest, dicom
from tests.support.servers import OrthancServer, RedisServer, free_port, wait_until

PACS = "http://orthanc.example:8042"


@dataclass
class Clock:
    """The module's clock in a test's hand: seconds pass when the test says so, and slots are renewed as it says."""

    seconds: float = 1.0
    renew_every: float = 3600.0

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, _: float) -> None:
        time.sleep(self.renew_every)


@pytest.fixture(autouse=True)
def _unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine pauses a test for seconds: nobody is dead or slow for that, and one trouble is not over."""
    monkeypatch.setattr(concurrency_limit, "ALIVE", 60.0)
    monkeypatch.setattr(concurrency_limit, "CUT_MS", 60_000)
    monkeypatch.setattr(concurrency_limit, "SLOW_SECONDS", 3600.0)


def limits(url: str, count: int, *, most: int, lifetime: float = 60.0) -> list[PacsConcurrencyLimit]:
    """Return the limits of so many processes."""
    return [PacsConcurrencyLimit(Broker(url), PACS, most=most, lifetime=lifetime) for _ in range(count)]


@dataclass
class Watch:
    """How many requests were under way at a time."""

    now: int = 0
    most: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def one(self) -> Iterator[None]:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        yield
        with self._lock:
            self.now -= 1


def most_at_a_time(members: list[PacsConcurrencyLimit], expected: int, requests: int = 12) -> int:
    """Let all ask at once; return how many were inside at a time.

    The first ones stay inside until as many as expected are, so that a busy machine can't hide them.
    """
    watch = Watch()
    met = threading.Event()

    def ask(one: PacsConcurrencyLimit) -> None:
        for _ in range(requests):
            with one.slot("fetch"), watch.one():
                if watch.most >= expected:
                    met.set()
                met.wait(60)
                time.sleep(0.004)

    threads = [threading.Thread(target=ask, args=(one,)) for one in members]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return watch.most


def fail(one: PacsConcurrencyLimit) -> None:
    with pytest.raises(ServiceUnavailable), one.slot("store"):
        raise ServiceUnavailable("the PACS answers 503")


def current_limit(redis: RedisServer) -> float:
    names = redis.client.keys("cxr-pacs:*:limit")
    return float(str(redis.client.get(names[0]))) if names else float("inf")


def test_all_processes_together_stay_within_the_limit(redis_url: str) -> None:
    assert most_at_a_time(limits(redis_url, 6, most=3), 3) == 3


def test_a_5xx_halves_the_limit_and_good_answers_raise_it_again(
    redis_url: str, redis_server: RedisServer
) -> None:
    members = limits(redis_url, 6, most=4)
    fail(members[0])
    assert current_limit(redis_server) == 2
    assert most_at_a_time(members[:3], 2, requests=1) == 2  # the third good answer lifts the limit over 3
    for _ in range(16):
        with members[1].slot("fetch"):
            pass
    assert current_limit(redis_server) == 4
    assert most_at_a_time(members, 4) == 4


def test_requests_that_fail_in_one_trouble_halve_the_limit_once(
    redis_url: str, redis_server: RedisServer
) -> None:
    members = limits(redis_url, 4, most=8)
    for one in members:
        fail(one)
    assert current_limit(redis_server) == 4


def test_the_limit_never_falls_below_one(
    redis_url: str, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(concurrency_limit, "CUT_MS", 1)
    (one,) = limits(redis_url, 1, most=4)
    for _ in range(5):
        fail(one)
        time.sleep(0.005)  # until the last cut is over
    assert current_limit(redis_server) == 1
    assert most_at_a_time([one], 1, requests=2) == 1


def test_a_far_slower_answer_than_usual_lowers_the_limit(
    redis_url: str, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(concurrency_limit, "SLOW_SECONDS", 0.5)
    monkeypatch.setattr(concurrency_limit, "time", clock)
    (one,) = limits(redis_url, 1, most=4)
    for took in (0.1, 0.1, 0.49):
        with one.slot("fetch"):
            clock.seconds += took
    assert current_limit(redis_server) == float("inf")  # nothing is wrong yet
    with one.slot("fetch"):
        clock.seconds += 0.6
    assert current_limit(redis_server) == 2


def test_an_instance_that_is_refused_says_nothing_about_the_pacs(
    redis_url: str, redis_server: RedisServer
) -> None:
    (one,) = limits(redis_url, 1, most=4)
    with pytest.raises(InstanceRejected), one.slot("store"):
        raise InstanceRejected(Reason.REFUSED)
    assert current_limit(redis_server) == float("inf")


@pytest.mark.timeout(60, func_only=True)
def test_the_place_of_a_dead_process_is_free_again_after_a_while(redis_url: str) -> None:
    client = Broker(redis_url).client
    (alive,) = limits(redis_url, 1, most=1)
    until = _redis_time(client) + 0.5
    client.zadd(f"{alive.name}:places", {"of the dead": 1000 * until})  # and nobody renews it
    with alive.slot("fetch"):
        assert _redis_time(client) > until


def _redis_time(client: Any) -> float:
    seconds, micros = client.time()
    return float(seconds + micros / 1e6)


@pytest.mark.timeout(60, func_only=True)
def test_a_slow_request_keeps_its_place(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrency_limit, "time", Clock(renew_every=0.05))
    slow, other = limits(redis_url, 2, most=1)
    client: Any = Broker(redis_url).client
    places = f"{slow.name}:places"
    with slow.slot("fetch"):
        (slot,) = client.zrange(places, 0, -1)
        for _ in range(3):
            client.zincrby(places, -30_000, slot)  # half a lifetime has passed
            wait_until(
                lambda: client.zscore(places, slot) > 1000 * (_redis_time(client) + 30), what="renewed"
            )
            assert client.zscore(places, slot) <= 1000 * (_redis_time(client) + 60)
        assert other.now()[1] == 1


def _waiting(client: Any, limit: PacsConcurrencyLimit, count: int) -> bool:
    return bool(client.zcard(f"{limit.name}:waiting") == count)


def test_who_waits_for_a_slot_may_stop_waiting(redis_url: str) -> None:
    first, second, third = limits(redis_url, 3, most=1)

    class Enough(Exception):
        pass

    def stop() -> None:
        raise Enough

    second.on_wait = stop
    with first.slot("fetch"), pytest.raises(Enough), second.slot("fetch"):
        pass
    assert second.waited > 0
    with third.slot("fetch"):  # nobody stands in the queue before it
        pass


def test_a_free_slot_goes_to_the_work_that_is_nearest_to_its_end(redis_url: str) -> None:
    """Found: with forty workers at a slow PACS every chunk was begun, and none was finished."""
    turns = [Turn(Rank.UPLOAD, 1), Turn(Rank.INFER, 2), Turn(Rank.REPORT, 3)]
    assert _served_in_order(redis_url, turns) == turns[::-1]


def test_chunks_end_one_after_the_other(redis_url: str) -> None:
    """Found: thirty-six chunks took turns at a slow PACS, and the first was read when the last was."""
    turns = [Turn(Rank.INFER, 30), Turn(Rank.INFER), Turn(Rank.INFER, 10), Turn(Rank.INFER, 20)]
    order = _served_in_order(redis_url, turns)
    assert order == [Turn(Rank.INFER, 10), Turn(Rank.INFER, 20), Turn(Rank.INFER, 30), Turn(Rank.INFER)]


def _served_in_order(redis_url: str, turns: list[Turn]) -> list[Turn]:
    """Let one process after another ask while the only slot is held; return in which order they are served."""
    holder, *others = limits(redis_url, 1 + len(turns), most=1)
    order: list[Turn] = []

    def ask(one: PacsConcurrencyLimit) -> None:
        with one.slot("fetch"):
            order.append(one.turn)

    threads = []
    with holder.slot("fetch"):
        client = Broker(redis_url).client
        for count, (one, turn) in enumerate(zip(others, turns, strict=True), 1):
            one.turn = turn
            threads.append(threading.Thread(target=ask, args=(one,)))
            threads[-1].start()
            wait_until(partial(_waiting, client, holder, count), 60)
    for thread in threads:
        thread.join(60)
    return order


def test_the_first_to_ask_is_the_first_to_be_served(redis_url: str) -> None:
    holder, *others = limits(redis_url, 6, most=1)
    order: list[int] = []

    def ask(number: int) -> None:
        with others[number].slot("fetch"):
            order.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(5)]
    with holder.slot("fetch"):
        client = Broker(redis_url).client
        for count, thread in enumerate(threads, 1):
            thread.start()
            wait_until(partial(_waiting, client, holder, count), 60)
            time.sleep(0.003)  # the queue is ordered by the ms
    for thread in threads:
        thread.join(60)
    assert order == [0, 1, 2, 3, 4]


def test_a_waiter_that_died_holds_up_nobody(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (one,) = limits(redis_url, 1, most=1)
    client = Broker(redis_url).client
    client.zadd(f"{one.name}:waiting", {"dead": 1})
    client.zadd(f"{one.name}:alive", {"dead": 1000 * time.time() - 1})
    with one.slot("fetch"):
        assert client.zcard(f"{one.name}:waiting") == 0


def test_without_redis_a_process_makes_one_request_at_a_time() -> None:
    alone = PacsConcurrencyLimit(Broker(f"redis://127.0.0.1:{free_port()}/0"), PACS, most=8)
    assert most_at_a_time([alone, alone, alone], 1, requests=3) == 1


def test_a_redis_that_dies_meanwhile_stops_no_request(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(concurrency_limit, "REDIS_DOWN_SECONDS", 0.0)
    private = RedisServer(redis_server.folder / "private")
    private.start()
    (one,) = limits(private.url, 1, most=2)
    with one.slot("fetch"):
        private.stop(9)
    with one.slot("fetch"):
        pass
    private.start()
    try:
        with one.slot("fetch"):
            assert private.client.zcard(f"{one.name}:places") == 1
    finally:
        private.stop()


def test_a_turn_costs_less_than_half_a_millisecond(redis_url: str, redis_server: RedisServer) -> None:
    """Against the bare price of two questions to Redis here: on an idle machine that is 0.1 ms."""
    (one,) = limits(redis_url, 1, most=8)
    client = Broker(redis_url).client
    client.ping()
    with one.slot("fetch"):
        pass

    def best(step: object, times: int = 200) -> float:
        assert callable(step)
        taken = []
        for _ in range(times):
            began = time.perf_counter()
            step()
            taken.append(time.perf_counter() - began)
        return sorted(taken)[times // 4]

    def slot() -> None:
        with one.slot("fetch"):
            pass

    asked = best(lambda: (client.ping(), client.ping()))
    assert best(slot) < max(0.0005, 5 * asked)


def test_workers_ask_an_orthanc_politely_and_a_folder_plainly(
    redis_url: str, redis_server: RedisServer, orthanc: OrthancServer
) -> None:
    settings = from_environment(
        orthanc.environment
        | {"CXR_PACS_URL": orthanc.url, "CXR_PACS_REQUESTS": "2", "CXR_REDIS_URL": redis_url}
    )
    asked: Pacs = limited(connect(settings), settings)
    assert isinstance(asked, LimitedPacs)
    with ExitStack() as stack:
        stack.callback(asked.close)
        with pytest.raises(InstanceRejected, match="not_in_pacs"):
            asked.fetch("0" * 8 + "-00000000" * 4)
        assert asked.delete("0" * 8 + "-00000000" * 4) is False
        assert asked.limit.most == 2
        wait_until(
            lambda: redis_server.client.keys("cxr-pacs:*:places") == [], 60, "the place was given back"
        )
    plain = from_environment({"CXR_PACS_URL": "/some/folder", "CXR_REDIS_URL": redis_url})
    assert not isinstance(limited(connect(plain), plain), LimitedPacs)


@pytest.mark.parametrize(("seconds", "turns"), [(3600.0, 1), (-1.0, 5)])
def test_many_files_share_a_slot_for_a_moment(
    redis_url: str,
    redis_server: RedisServer,
    orthanc: OrthancServer,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    turns: int,
) -> None:
    """Two questions to Redis for each report cost as much as the report."""
    monkeypatch.setattr(limited_pacs, "HOLD_SECONDS", seconds)
    monkeypatch.setattr(concurrency_limit, "time", Clock())  # no slot is renewed, which is a question too
    settings = from_environment(
        orthanc.environment | {"CXR_PACS_URL": orthanc.url, "CXR_REDIS_URL": redis_url}
    )
    with closing(limited(connect(settings), settings)) as asked:
        instances = [
            asked.store(dicom(chest(16, 16), SOPInstanceUID=f"1.2.79.{k}")).instance for k in range(4)
        ]
        gone = "0" * 8 + "-00000000" * 4
        before = _scripts_run(redis_server)
        held = asked.fetch_many([*instances, gone])
        assert [file is None for file in held] == [False, False, False, False, True]
        assert _scripts_run(redis_server) - before == 2 * turns


def _scripts_run(redis: RedisServer) -> int:
    return int(redis.client.info("commandstats")["cmdstat_evalsha"]["calls"])
