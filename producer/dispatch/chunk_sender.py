"""The message that begins a chunk's first stage, or one that was held back while its run was paused."""

from __future__ import annotations

from collections.abc import Sequence

from backlog.broker.job import Job
from backlog.broker.messages import InferItem, RetrieveItem, Stage, StageItem, UploadItem
from backlog.broker.sending import send
from producer.dispatch.context import RunContext
from producer.ledger.chunks import ChunkRow


class ChunkSender:
    """Sends a run's chunks to its queues."""

    def __init__(self, context: RunContext) -> None:
        self._context = context

    def send_chunk(self, chunk: ChunkRow, *, retry: bool = False) -> None:
        """Send the message for a chunk's first stage; ``retry`` says that the chunk is one item that was deferred."""
        context = self._context
        stage = context.source.first
        if stage is Stage.RETRIEVE:  # UIDs stand in no message
            context.claims.set_references(context.run, chunk.no, [str(ref) for _, ref in chunk.items])
        job = context.job
        if retry or chunk.no in context.ledger.deferred_chunks():
            job = {**job, "retry": True, "history": context.ledger.history(chunk.no).events}
        context.claims.messages.mark_sent(context.run, [chunk.no])
        self.send_message(stage, job, chunk.no, items_of(stage, chunk))

    def send_message(self, stage: Stage, job: Job, chunk: int, items: Sequence[StageItem]) -> None:
        """Send a message.

        Parameters
        ----------
        stage
            Whose queue it goes to.
        job
            The run's, as the message carries it.
        chunk
            The chunk's number.
        items
            What the stage has to do.

        Raises
        ------
        ServiceUnavailable, kombu.exceptions.OperationalError
            Redis can't be reached.
        """
        context = self._context
        with (
            context.claims.broker.reached()
        ):  # what kombu doesn't know of Redis's errors it passes on as it is
            # One retry layer: ours, at the next tick.
            send(context.app, stage, job, chunk, items, retry=False)


def items_of(stage: Stage, chunk: ChunkRow) -> Sequence[StageItem]:
    """Return a chunk's items as the message for a run's first stage has them."""
    if stage is Stage.UPLOAD:
        return [UploadItem(i=index, entry=ref, no=no) for index, (no, ref) in enumerate(chunk.items)]
    if stage is Stage.INFER:
        return [InferItem(i=index, instance=str(ref)) for index, (_, ref) in enumerate(chunk.items)]
    return [RetrieveItem(i=index) for index in range(len(chunk.items))]
