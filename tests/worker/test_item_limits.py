"""No item costs a stage more time or memory than it may: it ends with its reason, and its chunk goes on."""

from __future__ import annotations

import resource
import struct
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from backlog.broker.messages import Stage
from backlog.dicom.header import screen
from backlog.outcomes import Reason
from tests.support.dicom_images import chest, dicom
from tests.worker.test_chunk import BODIES, Message, Shop, images, shop  # noqa: F401 - a fixture
from worker.sr import build
from worker.tasks import upload
from worker.tasks.chunk import StageRunner
from worker.tasks.item_limits import ComputingTimeUsedUp, computing_time, limit_memory
from worker.tasks.registry import runner_of


@pytest.fixture
def memory() -> Iterator[Callable[[int], None]]:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    yield limit_memory
    resource.setrlimit(resource.RLIMIT_DATA, before)


def do(shop: Shop, stage: Stage, message: Message, seconds: float) -> None:  # noqa: F811
    job, chunk, items = message
    runner = StageRunner(shop.app, shop.claims, 0.0, item_seconds=seconds)
    runner.run(stage, job, chunk, items, partial(BODIES[stage], shop.process, job))


def busy_at(number: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that computes without end when it is called for the so-manieth time."""
    calls: list[int] = []

    def busy(*arguments: Any, **more: Any) -> Any:
        calls.append(1)
        while len(calls) == number + 1:
            sum(range(1000))
        return function(*arguments, **more)

    return busy


def test_waiting_is_no_computing_time() -> None:
    with computing_time(0.2):
        time.sleep(0.3)
    with pytest.raises(ComputingTimeUsedUp), computing_time(0.1):
        while True:
            sum(range(1000))


def test_an_upload_that_computes_for_too_long_ends(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(upload, "screen", busy_at(1, screen))
    shop.submit(images(3))
    (message,) = shop.take(Stage.UPLOAD)
    do(shop, Stage.UPLOAD, message, seconds=0.5)
    (following,) = shop.take(Stage.INFER)
    assert [item["i"] for item in following[2]] == [0, 2]
    shop.do(Stage.INFER, following)
    shop.do(Stage.REPORT, shop.take(Stage.REPORT)[0])
    assert shop.records()[1]["reason"] == Reason.TOO_SLOW.value
    assert "0.5 s of computing time" in shop.records()[1]["detail"]


def test_a_report_that_computes_for_too_long_ends(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(build, "build", busy_at(1, build.build))
    shop.submit(images(3))
    for stage in (Stage.UPLOAD, Stage.INFER):
        shop.do(stage, shop.take(stage)[0])
    do(shop, Stage.REPORT, shop.take(Stage.REPORT)[0], seconds=0.5)
    assert [record.get("reason") for record in shop.records().values()] == [None, Reason.TOO_SLOW.value, None]


def large_header(megabytes: int) -> bytes:
    """Return an image with so much before its pixels, in private elements that nobody reads."""
    whole = dicom(chest(64, 64), SOPInstanceUID="1.2.3.77")
    at = whole.rindex(b"\xe0\x7f\x10\x00")
    elements = b"".join(
        struct.pack("<HH2sHI", 0x0051, 0x1000 + k, b"OB", 0, 1 << 20) + bytes(1 << 20)
        for k in range(megabytes)
    )
    return whole[:at] + elements + whole[at:]


def test_an_upload_that_needs_too_much_memory_ends(
    shop: Shop,  # noqa: F811
    memory: Callable[[int], None],
) -> None:
    shop.submit(images(2) | {"m1": large_header(200)})
    (message,) = shop.take(Stage.UPLOAD)
    memory(100)
    shop.do(Stage.UPLOAD, message)
    assert shop.claims.records("run1", 1)[1]["reason"] == Reason.OUT_OF_MEMORY.value
    assert [item["i"] for item in shop.take(Stage.INFER)[0][2]] == [0]


def test_a_report_that_needs_too_much_memory_ends(
    shop: Shop,  # noqa: F811
    memory: Callable[[int], None],
) -> None:
    shop.submit(images(2) | {"m1": large_header(60)})
    for stage in (Stage.UPLOAD, Stage.INFER):
        shop.do(stage, shop.take(stage)[0])
    (message,) = shop.take(Stage.REPORT)
    memory(30)
    shop.do(Stage.REPORT, message)
    assert [record.get("reason") for record in shop.records().values()] == [None, Reason.OUT_OF_MEMORY.value]


def test_a_worker_limits_an_item_by_its_settings(shop: Shop) -> None:  # noqa: F811
    assert runner_of(shop.process, shop.app).item_seconds == 6 * shop.settings.decode_timeout_seconds
