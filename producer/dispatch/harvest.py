"""Outcomes of finished chunks, on their way from Redis into the ledger: whole, of the run's weights, of its PACS."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from backlog.broker.claims import ChunkProgress, ChunkResult
from backlog.broker.messages import ItemRecord, Stage
from backlog.errors import UsageError
from backlog.outcomes import Reason
from producer.dispatch.context import RunContext, RunObserver
from producer.ledger.chunks import ChunkRow

#: A finished chunk that lacks a record is done again: Redis forgot it. After so many times it is counted as a bug.
_MAX_INCOMPLETE: Final = 3


class Harvester:
    """Takes over what workers did."""

    def __init__(self, context: RunContext, observer: RunObserver) -> None:
        self._context = context
        self._observer = observer
        self._incomplete: dict[int, int] = {}

    def harvest(
        self, in_flight: Mapping[int, ChunkRow], states: Mapping[int, ChunkProgress]
    ) -> tuple[list[int], list[int]]:
        """Keep the outcomes of finished chunks; return (chunks that are over, chunks to be sent again).

        Raises
        ------
        UsageError
            The workers are at another PACS.
        """
        context = self._context
        finished = [number for number, state in states.items() if state.stage is Stage.FINISHED]
        if not finished:
            return [], []
        results = context.claims.results(context.run, finished)
        again = [number for number in finished if not self._complete(in_flight[number], results[number])]
        for number in again:
            del results[number]
        for number, result in results.items():
            self._check_workers_use_run_pacs(number, result.records)
        self._record_weights(record for result in results.values() for record in result.records.values())
        for number in list(results):
            foreign = self._foreign_reports(results[number].records)
            if foreign:
                self._note_foreign_reports(number, foreign)
                again.append(number)
                del results[number]
        context.claims.reopen(context.run, again)
        times = {number: result.times for number, result in results.items()}
        context.ledger.harvest(
            [(in_flight[number], result.records) for number, result in results.items()], times
        )
        context.claims.forget(context.run, results)
        self._observer.on_stage_times(times)
        return list(results), again

    def _complete(self, chunk: ChunkRow, result: ChunkResult) -> bool:
        """Whether a chunk is whole: Redis may have forgotten it since it said that it was finished."""
        if result.finished and len(result.records) >= len(chunk.items):
            return True
        self._incomplete[chunk.no] = self._incomplete.get(chunk.no, 0) + 1
        return self._incomplete[chunk.no] > _MAX_INCOMPLETE

    def _record_weights(self, records: Iterable[ItemRecord]) -> None:
        """Keep which weights and engines made the scores: once known, no worker with other weights may join."""
        ledger = self._context.ledger
        scored = [record for record in records if "weights" in record]
        if not scored:
            return
        if not self._context.job["weights"]:
            first = scored[0]
            self._context.run_job.learn({"weights": first["weights"], "meaningful": first["meaningful"]})
        known = list(ledger.get("engines", []))
        new = {record["engine"] for record in scored if not self._foreign_reports({0: record})} - set(known)
        if new:
            ledger.set("engines", known + sorted(new))

    def _check_workers_use_run_pacs(self, number: int, records: Mapping[int, ItemRecord]) -> None:
        """Ask our PACS for one report of the first chunk that has any, and for one image that workers miss.

        Raises
        ------
        UsageError
            The workers are at another PACS. Their chunk is done again when the run goes on.
        """
        contains = self._context.pacs_contains
        if contains is None:
            return
        stored = [one["sr_instance"] for one in records.values() if one.get("sr_instance")]
        missed = [
            one["instance"] for one in records.values() if one.get("reason") == Reason.NOT_IN_PACS.value
        ]
        if any(not contains(one) for one in stored[:1]) or any(contains(one) for one in missed[:1]):
            self._context.claims.reopen(self._context.run, [number])
            raise UsageError(
                "the workers read and store at another PACS than this run's: correct their CXR_PACS_URL, then"
                " go on with resume"
            )
        if stored:
            self._context.pacs_contains = None

    def _foreign_reports(self, records: Mapping[int, ItemRecord]) -> list[ItemRecord]:
        """Return the records that were made with other weights than the run's."""
        ours = self._context.job["weights"]
        return [one for one in records.values() if one.get("weights", "") not in ("", ours)]

    def _note_foreign_reports(self, number: int, foreign: list[ItemRecord]) -> None:
        """Keep which reports a worker with other weights stored: the run's scores are one table, the chunk goes again.

        That worker had its message before the weights were known; none of it reaches the ledger but which reports it
        stored, since nothing else knows of them.
        """
        ledger = self._context.ledger
        stored = sorted(record["sr_instance"] for record in foreign if record.get("sr_ours"))
        ledger.set("foreign_reports", [*ledger.get("foreign_reports", []), *stored])
        self._observer.notify(
            f"Chunk {number} was scored with other weights ({foreign[0]['weights'][:12]}…) than the run's"
            f" ({self._context.job['weights'][:12]}…), and is scored again. End the worker that has them: see"
            f" CXR_WEIGHTS. Its {len(stored)} reports of this chunk stay in the PACS and don't belong to this run"
            " (their ids are in ledger.sqlite, as 'foreign_reports')."
        )
