"""The files that tell a run's folder from any other."""

from __future__ import annotations

from typing import Final

#: Lies in every run's folder.
LEDGER_FILE: Final = "ledger.sqlite"

#: Marks the folder that holds the days of a followed source.
DAYS_FILE: Final = "days"
