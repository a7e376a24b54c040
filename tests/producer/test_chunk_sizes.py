"""Chunks are small at a run's begin and end and large between."""

from __future__ import annotations

from itertools import pairwise

import pytest

from producer.ledger.chunk_sizes import ChunkSizes, even, guided


def sizes(of: ChunkSizes, total: int) -> list[int]:
    made: list[int] = []
    while sum(made) < total:
        made.append(min(of(sum(made)), total - sum(made)))
    return made


def test_chunks_grow_to_the_most_and_shrink_to_the_end() -> None:
    made = sizes(guided(32, 2, 1000), 1000)
    peak = made.index(32)
    assert made[0] == 4
    assert all(a <= b for a, b in pairwise(made[: peak + 1]))
    assert all(a >= b for a, b in pairwise(made[peak:]))
    assert made[-2] == 4
    assert made.count(32) > 20  # most of the run


def test_a_long_run_has_few_more_messages_than_even_chunks() -> None:
    assert len(sizes(guided(32, 2, 10_000), 10_000)) < 1.1 * len(sizes(even(32), 10_000))


@pytest.mark.parametrize("workers", [1, 2, 8, 64])
def test_a_small_backlog_is_shared_by_all_workers(workers: int) -> None:
    for total in (1, 3, 10, 100):
        made = sizes(guided(32, workers, total), total)
        assert sum(made) == total
        assert len(made) >= min(total, 4 * workers, 10)


def test_without_a_total_chunks_only_grow() -> None:
    of = guided(32, 2, None)
    made = [of(listed) for listed in range(0, 500, 10)]
    assert made == sorted(made)
    assert (made[0], made[-1]) == (4, 32)


@pytest.mark.parametrize("most", [1, 2, 64])
def test_no_chunk_is_larger_than_the_setting_allows(most: int) -> None:
    assert max(sizes(guided(most, 4, 5000), 5000)) == most


def test_more_listed_than_the_total_still_goes_on() -> None:
    """A source that grew while it was listed."""
    of = guided(32, 2, 100)
    assert of(100) == of(5000) == 4
