"""What the checks of the stack killed, and what became of it: one table at the end of ``make compose-test``."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.compose.stack import Stack


@dataclass(frozen=True)
class Row:
    what: str  #: was killed, taken away or renewed
    happened: str
    items: int
    lost: int
    twice: int


@dataclass
class Account:
    rows: list[Row] = field(default_factory=list)

    def take(self, stack: Stack, run: str, before: set[str], what: str, happened: str) -> None:
        """Compare a complete run with what Orthanc holds, note it, and fail where anything is lost or there twice.

        Parameters
        ----------
        stack
            Where it ran.
        run
            Its folder.
        before
            The reports that Orthanc held before it.
        what
            What was killed meanwhile.
        happened
            What then happened by itself, or what an operator had to do.
        """
        assert stack.summary(run)["complete"], run
        lost, twice = stack.lost_and_twice(run, before)
        self.rows.append(Row(what, happened, stack.summary(run)["total"], lost, twice))
        assert (lost, twice) == (0, 0), self.rows[-1]
        assert "killed_worker" not in stack.summary(run)["quarantined"]

    def lines(self) -> list[str]:
        """Return the table."""
        head = ("killed, gone or renewed", "what happened", "items", "lost", "twice")
        table = [
            head,
            *((row.what, row.happened, str(row.items), str(row.lost), str(row.twice)) for row in self.rows),
        ]
        widths = [max(len(row[column]) for row in table) for column in range(len(head))]
        return [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in table
        ]


#: Of this session.
ACCOUNT = Account()
