"""People who don't watch are told: the right moments, no patient data, and no run that fails for a message."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from backlog.environment import from_environment
from backlog.errors import UsageError
from producer.dispatch.progress import RunProgress
from producer.ledger.ledger import Tally
from producer.monitoring.notify import Notifier
from producer.results.exports import Summary
from tests.support.servers import free_port, wait_until

RUN = "20260101000000-abcdef"


class Receiver:
    """A web hook: keeps what it is sent."""

    def __init__(self, status: int = 200) -> None:
        got: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.got = got
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"json://user:secret@127.0.0.1:{self.server.server_port}/hook"

    @property
    def messages(self) -> list[str]:
        return [one["message"] for one in self.got]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


SUMMARY: Summary = {
    "run": RUN,
    "complete": True,
    "total": 10,
    "reported": 7,
    "reported_before": 0,
    "skipped": {"lateral": 1},
    "quarantined": {"undecodable": 2},
    "seconds": 12.0,
    "images_per_second": 0.6,
    "model": "/inbox/SILVA^MARIA.zip",  # nothing but the run and the counts is sent
    "labels_not_evaluated": [],
    "preprocessing": "3",
    "weights_sha256": "",
    "weights_meaningful": True,
    "engine": "",
}


def progress(ended: int = 0, **more: Any) -> RunProgress:
    return RunProgress(listed=10, tally=Tally(ended, {}, {}), in_flight=1, **more)


def test_the_end_is_told_with_its_counts(receiver: Receiver) -> None:
    said: list[str] = []
    Notifier(receiver.url, RUN, said.append).ended(SUMMARY)
    (message,) = receiver.got
    assert RUN in message["title"]
    assert message["message"] == "It is complete. total 10, reported 7, skipped 1, quarantined 2."
    assert "SILVA" not in json.dumps(message)
    assert said == []


def test_a_pause_by_itself_is_told(receiver: Receiver) -> None:
    Notifier(receiver.url, RUN, print).on_pause(progress(3))
    wait_until(lambda: receiver.messages)
    assert "paused by itself" in receiver.messages[0]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "are workers running?"),
        ({"waiting_reason": "nothing has moved since 8:00", "standing_still": True}, "are workers running?"),
        ({"waiting_reason": "/inbox/SILVA^MARIA.zip: can't be read"}, "A server or a disk"),
    ],
)
def test_a_standstill_is_told_once_and_its_end_too(
    receiver: Receiver, more: dict[str, Any], said: str
) -> None:
    notifier = Notifier(receiver.url, RUN, print, long=0.05)
    notifier.on_progress(progress(1))

    def told() -> list[str]:
        notifier.on_progress(progress(1, **more))
        return receiver.messages

    wait_until(told)
    for _ in range(5):
        notifier.on_progress(progress(1, **more))
    notifier.on_progress(progress(2))
    wait_until(lambda: len(receiver.messages) > 1)
    assert said in receiver.messages[0]
    assert "moves again" in receiver.messages[1]
    assert len(receiver.messages) == 2
    assert "SILVA" not in json.dumps(receiver.got)


@pytest.mark.parametrize("more", [{"paused": True}, {"outside_hours": True}, {"all_listed": True}])
def test_a_run_that_is_meant_to_wait_is_no_standstill(receiver: Receiver, more: dict[str, Any]) -> None:
    notifier = Notifier(receiver.url, RUN, print, long=0.0)
    for _ in range(3):
        notifier.on_progress(progress(10, **more))
    notifier.wait_until_sent()
    assert receiver.messages == []


def test_a_run_that_cannot_go_on_is_told(receiver: Receiver) -> None:
    Notifier(receiver.url, RUN, print).failed()
    assert receiver.messages == ["It can't go on until somebody looks at it."]


def test_several_receivers_are_told(receiver: Receiver) -> None:
    Notifier(f"{receiver.url}\n {receiver.url}/other \n", RUN, print).ended(SUMMARY)
    assert len(receiver.messages) == 2


def test_a_message_that_cannot_be_sent_is_said_and_costs_nothing() -> None:
    said: list[str] = []
    notifier = Notifier(f"json://user:secret@127.0.0.1:{free_port()}/", RUN, said.append)
    notifier.on_pause(progress())

    def heard() -> list[str]:
        notifier.on_progress(progress())
        return said

    wait_until(heard)
    notifier.ended(SUMMARY)
    assert len(said) == 2
    assert all("could not be sent" in one and "secret" not in one for one in said)


def test_a_receiver_that_refuses_is_said() -> None:
    refusing = Receiver(500)
    said: list[str] = []
    Notifier(refusing.url, RUN, said.append).ended(SUMMARY)
    refusing.server.shutdown()
    refusing.server.server_close()
    assert len(said) == 1


def test_an_address_that_is_none_is_refused_and_not_shown(receiver: Receiver) -> None:
    with pytest.raises(UsageError, match="address 2") as caught:
        Notifier(f"{receiver.url} nonsense:secret", RUN, print)
    assert "secret" not in str(caught.value)


def test_addresses_come_from_a_file(tmp_path: Any) -> None:
    secret = tmp_path / "notify"
    secret.write_text("json://127.0.0.1:1/a\njson://127.0.0.1:1/b\n")
    settings = from_environment({"CXR_NOTIFY_FILE": str(secret)})
    assert settings.notify.split() == ["json://127.0.0.1:1/a", "json://127.0.0.1:1/b"]
    assert "json://" not in repr(settings)
