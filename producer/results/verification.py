"""What a verification found, and how far one came that was broken off."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypedDict

from backlog.files import replacing
from producer.ledger.ledger import Ledger

_LAST_EFFECT: Final = "SELECT coalesce(max(seq), 0) FROM effect"
_RETRACTED: Final = "SELECT count(*) FROM retracted"


@dataclass
class Verification:
    """What the PACS holds of a run's reports."""

    right: int = 0
    missing: list[int] = field(default_factory=list)  #: items
    different: list[int] = field(default_factory=list)
    twice: list[int] = field(default_factory=list)
    misfiled: list[int] = field(default_factory=list)  #: in another patient's study than their image
    unanswered: list[int] = field(default_factory=list)  #: the PACS fails on these, and answers otherwise
    unrecorded: list[int] = field(default_factory=list)  #: reports of items that don't count as reported
    foreign: int = 0  #: reports that this run's workers wrote with other weights
    retracted: int = 0  #: gone because this run took them back
    unaccounted: int = 0  #: input items without any outcome
    all_listed: bool = True  #: whether the source was read to its end
    not_looked_at: int = 0  #: reported items without a verdict: the account changed while they were looked at
    begun: str = ""  #: when the first report was looked at, ISO 8601
    resumed_at: int = 0  #: the item at which it went on; what comes before was looked at by a call of before

    @classmethod
    def new(cls) -> Verification:
        """Return one that begins now."""
        return cls(begun=datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def complete(self) -> bool:
        """Whether nothing is wrong."""
        wrong = self.missing or self.different or self.twice or self.misfiled or self.unanswered
        strays = self.unrecorded or self.foreign
        return self.all_listed and not (wrong or strays or self.unaccounted or self.not_looked_at)

    @property
    def looked_at(self) -> int:
        """How many reported items have a verdict, before unrecorded reports are asked for."""
        groups = (self.missing, self.different, self.twice, self.misfiled, self.unanswered)
        return self.right + self.retracted + sum(map(len, groups))


class Account(TypedDict):
    """What a verification is about. Where it has changed, what was looked at counts no longer.

    Items end in any order, and reports are taken back between two verifications.
    """

    run: str
    pacs: str  #: its identity: a copy of a run has another one
    ended: int  #: items
    reported: int
    last_effect: int
    retracted: int


@dataclass(frozen=True)
class VerificationState:
    """The file in the run's folder that keeps what was found so far, and of which account."""

    path: Path
    account: Account

    @classmethod
    def of(cls, path: Path, ledger: Ledger, pacs: str) -> VerificationState:
        """Take the account as it is now.

        Parameters
        ----------
        path
            The file.
        ledger
            The run's ledger.
        pacs
            The identity of the PACS.
        """
        tally = ledger.tally()
        account: Account = {
            "run": str(ledger.get("job")["run"]),
            "pacs": pacs,
            "ended": tally.ended,
            "reported": tally.reported,
            "last_effect": next(ledger.select(int, _LAST_EFFECT)),
            "retracted": next(ledger.select(int, _RETRACTED)),
        }
        return cls(path, account)

    def kept(self) -> Verification | None:
        """Return what was found, and at which item to go on; None where that is of another account."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            state = json.loads(self.path.read_text(encoding="utf-8"))
            if state["account"] == self.account:
                found = replace(Verification(**state["found"]), resumed_at=int(state["after"]) + 1)
                datetime.fromisoformat(found.begun)
                return found
        return None

    def keep(self, after: int, found: Verification) -> None:
        """Keep what was found up to an item, whole or not at all; not where an archived run's folder is read-only."""
        state = {"account": self.account, "after": after, "found": asdict(found)}
        with suppress(OSError), replacing(self.path, 0o600) as file:
            file.write(json.dumps(state).encode())

    def remove(self) -> None:
        """Forget it: the verification has come to its end."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
