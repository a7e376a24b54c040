"""The table of scores, as a page and a picture show it."""

from __future__ import annotations

from worker.sr.content import ReportContent
from worker.sr.findings import Finding
from worker.sr.wording import score_text


def cells(report_content: ReportContent, finding: Finding) -> tuple[str, str, str]:
    """Return a finding's row of the table: its name, its score as the summary writes it, what that means."""
    percent = "-" if finding.value is None else score_text(finding.percent, report_content.words)
    name = report_content.words.findings[finding.label].name
    return name, percent, finding.state.meaning
