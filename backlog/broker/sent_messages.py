"""When the last message of each chunk was sent: what is older than all that wait stands in no queue."""

from __future__ import annotations

from collections.abc import Iterable

from backlog.broker import claim_scripts
from backlog.broker.connection import Broker


class SentMessages:
    """The messages of all runs on one Redis, by the time at which they were sent.

    Parameters
    ----------
    broker
        The connection.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._mark_sent = broker.script(claim_scripts.MARK_SENT)

    def mark_sent(self, run: str, chunks: Iterable[int]) -> None:
        """Keep that messages of chunks are being sent now; call it before they are.

        A worker that finishes a stage does so with its claim.
        """
        self._mark_sent(sent_key=f"cxr:{run}:sent", ttl=claim_scripts.CLAIM_TTL_SECONDS, chunks=list(chunks))

    def sent(self, run: str, chunks: Iterable[int]) -> dict[int, int]:
        """Return when the last message of each chunk was sent, in ms; unknown ones are missing."""
        numbers = list(chunks)
        if not numbers:
            return {}
        with self._broker.reached() as client:
            answers = client.zmscore(f"cxr:{run}:sent", [str(no) for no in numbers])
        return {no: int(at) for no, at in zip(numbers, answers, strict=True) if at is not None}

    def oldest_sent(self, queues: Iterable[str]) -> dict[str, int]:
        """Return when the message that waits longest in each queue was sent, in ms; an empty queue is missing.

        0 where that isn't known. Queues are taken from in order: what was sent before it waits no more.
        """
        heads = self._broker.oldest(queues)
        with self._broker.reached() as client:
            pipe = client.pipeline(transaction=False)
            for task in heads.values():
                run, chunk = task[:2] if task else ("", 0)
                pipe.zscore(f"cxr:{run}:sent", chunk)
            return {queue: int(at or 0) for queue, at in zip(heads, pipe.execute(), strict=True)}

    def waiting_seconds(self, queues: Iterable[str]) -> dict[str, float]:
        """Return for how long the oldest message of each queue has waited; 0 where none does."""
        ages = dict.fromkeys(queues, 0.0)
        with self._broker.reached() as client:
            seconds, micros = client.time()
        for queue, at in self.oldest_sent(ages).items():
            ages[queue] = max(0.0, seconds + micros / 1e6 - at / 1000) if at else 0.0
        return ages
