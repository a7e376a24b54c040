"""``summary.html``: what became of a run, on one self-contained page, for screen, paper and screen readers.

Nothing on it comes from a patient's header but UIDs; everything is escaped; it holds no script and asks for
nothing. In English or Portuguese.
"""

from __future__ import annotations

from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import IO, Final

from backlog.broker.messages import TASKS
from backlog.environment import from_environment, keep_font_cache_in
from backlog.errors import UsageError
from backlog.model import OPERATING_POINT, PRODUCT
from backlog.output_file import OutputFile
from producer.ledger.ledger import Ledger
from producer.page import drift
from producer.page.beside import FILES, there
from producer.page.comparison import Comparison
from producer.page.drift import Verdict
from producer.page.statistics import Figures, gather
from producer.page.words import Words, words_of
from producer.results.audit_chain import AuditResult
from producer.results.meanings import MEANINGS
from producer.templates import environment_of
from producer.viewer_link import ViewerLink

_TEMPLATE: Final = "page.html.j2"

#: In the head of every page of ours.
_GENERATOR: Final = f'<meta name="generator" content="{PRODUCT}">'.encode()

#: Values of the table of facts that are words.
_SAID: Final = ("yes", "no", "not_known_yet", "not_run_yet")


def is_own_page(file: IO[bytes]) -> bool:
    """Whether a file is an earlier page of this kind."""
    return _GENERATOR in file.read(1024)


def write_page(
    ledger: Ledger,
    to: Path | OutputFile,
    *,
    baseline: Ledger | None = None,
    groups: Path | None = None,
    orthanc: str = "",
    viewer: str = "",
    audit: AuditResult | None = None,
    beside: Path | None = None,
    language: str = "en",
) -> Figures:
    """Write the page, whole or not at all, and return what it says.

    Parameters
    ----------
    ledger
        The run's ledger.
    to
        The HTML file.
    baseline
        An earlier run, whose scores this run's are compared with.
    groups
        Which site or device a study came from: see :func:`producer.page.comparison.compare`.
    orthanc
        Where a browser finds the Orthanc, for the links; by default where the run found it.
    viewer
        Where a viewer shows a study, instead: see :mod:`producer.viewer_link`.
    audit
        What is found in the run's audit. Its head stands on the page, so that a later rewriting shows.
    beside
        The folder that the page comes into, where that is the run's: what lies there is linked.
    language
        ``en`` or ``pt-BR``.

    Raises
    ------
    UsageError
        The libraries are missing, ``orthanc`` or ``viewer`` is no address, or the groups can't be read.
    StorageFull
        There is no room for the page.
    """
    keep_font_cache_in(from_environment().cache_folder)
    try:
        environment = environment_of("producer.page")

        from producer.page import charts  # matplotlib is optional, and takes a second
    except ImportError as error:
        raise UsageError(
            "it needs jinja2 and matplotlib: install cxr-backlog[page] and run cxr-backlog summary OUT"
        ) from error
    link = ViewerLink.of(viewer, str(ledger.get("pacs")), orthanc)
    found, words = gather(ledger, baseline, groups), words_of(language)
    page = environment.get_template(_TEMPLATE).render(
        _account(found, words),
        _=words,
        language=language,
        link=link,
        in_viewer=bool(viewer),
        beside=[(name, words(FILES[name])) for name in there(beside, FILES)] if beside else [],
        points=ledger.get("job").get("operating_points"),
        own_point=words.plain(OPERATING_POINT),
        meanings={reason: _capitalised(words.message(meaning)) for reason, meaning in MEANINGS.items()},
        charts=charts.draw(found, words),
        **_tables(found, audit, words),
    )
    with OutputFile.of(to).open_text(is_own_page) as file:
        file.write(page)
    return found


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def _account(found: Figures, words: Words) -> dict[str, object]:
    summary = found.summary
    skipped, quarantined = sum(summary["skipped"].values()), sum(summary["quarantined"].values())
    return {
        "summary": summary,
        "skipped": skipped,
        "quarantined_count": quarantined,
        "quarantined_by": summary["quarantined"],
        "pending": summary["total"] - summary["reported"] - skipped - quarantined,
        "written": words.moment(datetime.now(UTC).timestamp()),
        "version": metadata.version(PRODUCT),
        "found": found,
        "stages": {stage.value: words(name) for stage, name in TASKS.items()},
        "baseline_images": drift.images(found.comparison.before) if found.comparison else 0,
        "drift_line": drift_line(found.comparison, words) if found.comparison else "",
        "verdicts": {verdict: words(f"verdict_{verdict.value}") for verdict in Verdict},
        "drift_limits": {
            "moved": words.plain(drift.MOVED_PSI),
            "parted": words.plain(drift.PARTED_PSI),
            "fewest": drift.FEWEST,
        },
    }


def _tables(found: Figures, audit: AuditResult | None, words: Words) -> dict[str, object]:
    facts = [
        (
            words(f"fact_{key}") if f"fact_{key}" in words.phrases else words("here", name=key),
            _fact(key, value, words),
        )
        for key, value in found.facts.items()
    ]
    if audit is not None:
        right = words("audit_right", count=audit.head.seq, hash=audit.head.hash)
        damaged = words("audit_damaged", line=audit.broken, why=words.message(audit.why))
        facts.append((words("fact_audit"), right if audit.right else damaged))
    return {
        "facts": facts,
        "effects": [(words(f"effect_{kind}"), str(count)) for kind, count in found.effects.items()],
        "flags": [(flag, str(count), words(f"flag_{flag}")) for flag, count in found.flags.items()],
        "attempts": [(str(number), str(count)) for number, count in found.attempts.items()],
    }


def _fact(key: str, value: str, words: Words) -> str:
    if key == "not_evaluated":
        return ", ".join(map(words.finding, value.split(", ")))
    if key == "source":
        return words(f"source_{value}")
    return words(value) if value in _SAID else value


def drift_line(comparison: Comparison, words: Words) -> str:
    """Say in a sentence whether the runs part."""
    by = {
        verdict: ", ".join(words.finding(d.label) for d in comparison.drifts if d.verdict is verdict)
        for verdict in Verdict
    }
    parted = [one for one in comparison.drifts if one.verdict is Verdict.PARTED]
    if parted:
        key = "drift_parted_and_moved" if by[Verdict.MOVED] else "drift_parted"
        return words(key, count=len(parted), findings=by[Verdict.PARTED], moved=by[Verdict.MOVED])
    if by[Verdict.MOVED]:
        return words("drift_moved", moved=by[Verdict.MOVED])
    same = sum(one.verdict is Verdict.SAME for one in comparison.drifts)
    if by[Verdict.FEW] and not same:
        return words("drift_few", fewest=drift.FEWEST)
    if not same:
        return words("drift_nothing_compared")
    if by[Verdict.NOT_EVALUATED]:
        return words("drift_none_of_those", count=same, findings=by[Verdict.NOT_EVALUATED])
    return words("drift_none", count=same)
