"""How long an attempt waits for servers: its budget, and what is left of it after items that used it up."""

from __future__ import annotations

import pytest

from backlog.broker.claim import Claim
from backlog.broker.claims import Claims
from backlog.broker.messages import Stage
from backlog.errors import ServiceUnavailable
from tests.support.servers import free_port
from worker.tasks.retry import RetryBudget

AWAY = ServiceUnavailable("the PACS is unavailable")


def budget(seconds: float, slot_wait: float = 0.0) -> RetryBudget:
    """The budget of a chunk whose Redis is not there: nothing here asks it."""
    claims = Claims(f"redis://127.0.0.1:{free_port()}")
    claim = Claim(claims, "run1", 1, "owner", attempt=1, finished_items=frozenset(), stage=Stage.INFER)
    return RetryBudget(claim, seconds, lambda: slot_wait)


@pytest.mark.parametrize(("seconds", "second"), [(900.0, 15.0), (4.0, 4.0)])
def test_the_second_item_in_a_row_waits_less_the_third_not(seconds: float, second: float) -> None:
    retry = budget(seconds)
    retry.failed(1)
    assert retry.left == second
    retry.failed(2)
    assert retry.left == 0.0
    assert not retry.wait_before_retry(AWAY, 0.0, 1.0)


def test_a_server_that_works_again_is_waited_for_again() -> None:
    retry = budget(900.0)
    retry.failed(2)
    retry.served()
    assert retry.left == 15.0


def test_what_failing_took_counts_as_waiting() -> None:
    retry = budget(10.0)
    assert not retry.wait_before_retry(AWAY, 10.0, 1.0)


def test_what_has_no_budget_left_is_tried_once() -> None:
    tries: list[int] = []

    def fails() -> None:
        tries.append(1)
        raise AWAY

    with pytest.raises(ServiceUnavailable):
        budget(0.0).while_unavailable(fails)
    assert tries == [1]


def test_waiting_for_a_slot_is_no_failure_of_the_server() -> None:
    assert budget(10.0, slot_wait=1000.0).clock() < budget(10.0).clock() - 900
