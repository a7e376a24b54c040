"""When the next of a run's first chunks may be sent."""

from __future__ import annotations

from backlog.broker.claims import ChunkProgress
from backlog.broker.messages import Stage
from producer.dispatch.slow_start import SlowStart


def at(stage: Stage) -> ChunkProgress:
    return ChunkProgress(stage, leased=True)


def test_the_next_chunk_waits_for_the_images_of_the_one_before() -> None:
    slow = SlowStart(wanted=True)
    slow.note(0, [], {})
    assert (slow.stored, slow.room) == (0, 1)
    for unstored in ({}, {1: at(Stage.UPLOAD)}, {1: at(Stage.RETRIEVE)}):  # nobody has it; a worker stores it
        slow.note(0, [1], unstored)
        assert (slow.stored, slow.room) == (0, 0)
    slow.note(0, [1], {1: at(Stage.INFER)})
    assert (slow.stored, slow.room) == (1, 1)


def test_a_chunk_that_redis_forgot_counts_as_not_stored() -> None:
    slow = SlowStart(wanted=True)
    slow.note(2, [3, 4], {3: at(Stage.REPORT)})
    assert (slow.stored, slow.room) == (3, 0)


def test_a_slow_start_ends_with_its_sixth_chunk_for_good() -> None:
    slow = SlowStart(wanted=True)
    slow.note(4, [5, 6], {5: at(Stage.INFER), 6: at(Stage.UPLOAD)})
    assert slow.on
    slow.note(4, [5, 6], {5: at(Stage.INFER), 6: at(Stage.INFER)})
    assert not slow.on
    slow.note(4, [5, 6], {})  # Redis has forgotten
    assert not slow.on


def test_a_pacs_that_tells_needs_no_slow_start() -> None:
    slow = SlowStart(wanted=False)
    slow.note(0, [1], {})
    assert not slow.on
