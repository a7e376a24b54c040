"""What an experiment found, and the table of them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.account import Account


@dataclass(frozen=True)
class Finding:
    """The result of one experiment."""

    title: str
    items: int
    seconds: float
    lost: int
    duplicate: int
    wrongly_quarantined: int
    wrong: int
    notes: str
    passed: bool


def finding(title: str, account: Account, seconds: float, notes: str, *, passed: bool = True) -> Finding:
    """Return the finding of an experiment that has to end with a clean account."""
    return Finding(
        title,
        account.items,
        seconds,
        account.lost,
        account.duplicate,
        account.wrongly_quarantined,
        account.wrong,
        notes,
        passed=passed and account.clean,
    )


def table(findings: Sequence[Finding]) -> str:
    """Return a Markdown table."""
    lines = [
        "| experiment | items | seconds | lost | duplicate | wrongly quarantined | wrong | seen | passed |",
        "|---|---:|---:|---:|---:|---:|---:|---|---|",
    ]
    lines += [
        f"| {one.title} | {one.items} | {one.seconds:.0f} | {one.lost} | {one.duplicate}"
        f" | {one.wrongly_quarantined}"
        f" | {one.wrong} | {one.notes} | {'yes' if one.passed else '**no**'} |"
        for one in findings
    ]
    return "\n".join(lines)
