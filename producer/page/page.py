"""``summary.html``: what became of a run, on one self-contained page, for screen, paper and screen readers.

Nothing on it comes from a patient's header but UIDs; everything is escaped; it holds no script and asks for
nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import IO, Any, Final

from backlog.broker.messages import TASKS
from backlog.errors import UsageError
from backlog.outcomes import Flag
from backlog.output_file import OutputFile
from backlog.pacs.address import without_password
from backlog.settings import from_environment, keep_font_cache_in
from producer.ledger.ledger import Ledger
from producer.page import drift
from producer.page.comparison import Comparison
from producer.page.drift import Verdict
from producer.page.statistics import Figures, gather
from producer.results.audit_log import AuditResult

_TEMPLATE: Final = "page.html.j2"


#: In the head of every page of ours.
_GENERATOR: Final = b'<meta name="generator" content="cxr-backlog">'


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
    audit: AuditResult | None = None,
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
    audit
        What is found in the run's audit. Its head stands on the page, so that a later rewriting shows.

    Raises
    ------
    UsageError
        The libraries are missing, ``orthanc`` is no address, or the groups can't be read.
    StorageFull
        There is no room for the page.
    """
    keep_font_cache_in(from_environment().cache_folder)
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined  # optional

        from producer.page import charts  # matplotlib is optional, and takes a second
    except ImportError as error:
        raise UsageError(
            "it needs jinja2 and matplotlib: install cxr-backlog[page] and run cxr-backlog summary OUT"
        ) from error
    found = gather(ledger, baseline, groups)
    environment = Environment(
        loader=PackageLoader("producer.page", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(_TEMPLATE).render(
        _words(found),
        orthanc=_browsable(ledger, orthanc),
        charts=charts.draw(found),
        **_hashes(found, audit),
    )
    with OutputFile.of(to).open_text(is_own_page) as file:
        file.write(page)
    return found


def _words(found: Figures) -> dict[str, Any]:
    summary = found.summary
    skipped, quarantined = sum(summary["skipped"].values()), sum(summary["quarantined"].values())
    return {
        "summary": summary,
        "skipped": skipped,
        "quarantined_count": quarantined,
        "quarantined_by": summary["quarantined"],
        "pending": summary["total"] - summary["reported"] - skipped - quarantined,
        "duration": _duration(summary["seconds"]),
        "written": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}",
        "version": metadata.version("cxr-backlog"),
        "quarantined": found.quarantined,
        "stages": [TASKS[stage] for stage in TASKS],
        "flags": [(flag, str(count), _MEANINGS.get(flag, "")) for flag, count in found.flags.items()],
        "attempts": [(str(number), str(count)) for number, count in found.attempts.items()],
        "studies": found.studies,
        "study_count": found.study_count,
        "comparison": found.comparison,
        "drift_line": drift_line(found.comparison) if found.comparison else "",
        "moved_psi": drift.MOVED_PSI,
        "parted_psi": drift.PARTED_PSI,
        "fewest": drift.FEWEST,
    }


def _hashes(found: Figures, audit: AuditResult | None) -> dict[str, Any]:
    facts = dict(found.facts)
    if audit is not None:
        head = audit.head
        right = f"{head.seq} lines, head {head.hash}"
        facts["Audit"] = right if audit.right else f"damaged at line {audit.broken}: {audit.why}"
    effects = [(kind, str(count)) for kind, count in found.effects.items()]
    return {"facts": list(facts.items()), "effects": effects}


def drift_line(comparison: Comparison) -> str:
    """Say in a sentence whether the runs part."""
    by = {
        verdict: [d.label.replace("_", " ") for d in comparison.drifts if d.verdict is verdict]
        for verdict in Verdict
    }
    if by[Verdict.PARTED]:
        also = f"; moved: {', '.join(by[Verdict.MOVED])}" if by[Verdict.MOVED] else ""
        return f"The runs part in {len(by[Verdict.PARTED])} findings: {', '.join(by[Verdict.PARTED])}{also}."
    if by[Verdict.MOVED]:
        return f"Moved, but not parted: {', '.join(by[Verdict.MOVED])}."
    if by[Verdict.FEW]:
        return f"Too few images to say: both runs need {drift.FEWEST}."
    return "No sign of drift in any of the 18 findings."


def _browsable(ledger: Ledger, given: str) -> str:
    if given and not given.startswith(("http://", "https://")):
        raise UsageError(f"{given}: no address of an Orthanc (http://… or https://…)")
    pacs = str(ledger.get("pacs"))
    if not pacs.startswith(("http://", "https://")):
        return ""  # a folder's images have no page
    return without_password(given or pacs).rstrip("/")


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


#: What a flag means, for the page's readers; a flag without a line here shows its name alone.
_MEANINGS: Final = {
    Flag.DEPTH_CORRECTED.value: "the pixels use more bits than the header says",
    Flag.OUTLIERS_CLIPPED.value: "a few pixels far beyond the others were clipped",
    Flag.CODESTREAM_DEPTH.value: "the compressed stream declares another depth or sign than the header",
    Flag.OVERSHOOT_CLIPPED.value: "pixels that lossy compression put beyond the image's depth were clipped to it",
    Flag.BITS_ALLOCATED_CORRECTED.value: "the header allocates 8 bits to pixels of 16; the 16 were read",
    Flag.TRANSFER_SYNTAX_WRONG.value: "coded otherwise than its transfer syntax says; read as it is coded",
    Flag.ORIENTATION_CORRECTED.value: "turned or mirrored to stand upright, as Patient Orientation asks",
    Flag.ORIENTATION_DOUBTFUL.value: "Patient Orientation lays it on its side, the pixels do not; left as stored",
    Flag.LEFT_ALIGNED.value: "the pixels stood in the upper bits of their words",
    Flag.OVERLAY_MASKED.value: "an old overlay in the upper bits was masked away",
    Flag.SIGNED.value: "signed pixels",
    Flag.RESCALED.value: "a rescale slope or intercept",
    Flag.MODALITY_LUT.value: "a modality lookup table was applied",
    Flag.MODALITY_LUT_IGNORED.value: "a malformed modality lookup table was ignored",
    Flag.MONOCHROME1_INVERTED.value: "inverted, as MONOCHROME1 asks",
    Flag.PRESENTATION_INVERSE.value: "inverted, as the presentation asks",
    Flag.PADDING_REPLACED.value: "padding was set to black",
    Flag.GREY_RGB.value: "a grey image stored as colour",
    Flag.EXCESS_PIXEL_DATA.value: "more pixel data than one frame",
    Flag.LOOKS_INVERTED.value: "looks inverted: a user should look",
    Flag.LOW_CONTRAST.value: "uses little of its declared range",
    Flag.UPSAMPLED.value: "smaller than the model's input",
    Flag.NON_SQUARE.value: "the centre crop loses over a third of the image",
    Flag.VIEW_UNKNOWN.value: "no view position; taken as frontal",
    Flag.BODY_PART_UNKNOWN.value: "no body part; taken as chest",
    Flag.BODY_PART_CONTRADICTED.value: "the body part attribute names another part, all descriptions the chest",
    Flag.LATERAL_ASKED_FOR.value: "a lateral view, scored because the settings ask for it",
    Flag.UIDS_MADE.value: "the file came without UIDs; they were made from its content",
    Flag.IMAGE_FILE_WRAPPED.value: "a PNG or JPEG file; the DICOM object was made from it",
    Flag.NONCONFORMANT_UID.value: "a UID that breaks the standard's rules, kept as it is",
    Flag.HEADER_REPAIRED.value: "an invalid attribute was corrected or left out of the report",
}
