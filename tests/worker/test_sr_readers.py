"""Others read the report: validators without an error, readers without a complaint."""

from __future__ import annotations

import html
import math
import re
import subprocess
from collections.abc import Iterable
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from backlog.model import LABELS
from backlog.outcomes import Flag
from tests.support.sr_headers import NONCONFORMANT
from tests.support.sr_reports import (
    DRAWN,
    EVERY_OPTION,
    MODEL,
    NEGATIVE,
    SCORES,
    SEEDED,
    dciodvfy_errors,
    headers,
    pixelmed,
    program,
    regions,
    report,
)
from worker.sr.build import Options, Predecessor
from worker.sr.codes import vocabulary
from worker.sr.findings import percent_text
from worker.sr.wording import score_text

_HEADERS: Final = headers()
_EARLIER: Final = Predecessor(
    "1.2.840.10008.5.1.4.1.1.88.34", "2.25.11", "2.25.12", "1.2.826.0.1.3680043.8.498.1.1"
)
#: Values of 64 characters, as PS3.5 section 6.2 allows; dciodvfy counts the bytes of their UTF-8 instead.
_MISCOUNTED: Final = {"description of 64 umlauts", "name of 64 kanji"}


def _nonconformant(name: str) -> bool:
    return name in NONCONFORMANT or name == "file uid_leading_zero_brax_style"


@cache
def _variants() -> dict[str, bytes]:
    """Reports of every option, with all that can stand in one, and of each kind of outcome."""
    made = {
        f"{o.language} {o.coding} {o.iod} {o.regions}": report(
            scores=(math.nan, *SCORES[1:]), flags=set(Flag), model=SEEDED, options=o, predecessor=_EARLIER
        ).dicom
        for o in EVERY_OPTION
    }
    made["negative"] = report(scores=NEGATIVE).dicom
    made["negative, drawn"] = report(scores=NEGATIVE, options=DRAWN).dicom
    made["positive"] = report(scores=SCORES, options=Options("pt-BR")).dicom
    return made


@pytest.mark.parametrize("name", _HEADERS)
def test_dciodvfy_finds_no_error_for_any_header(name: str, tmp_path: Path) -> None:
    path = tmp_path / "report.dcm"
    path.write_bytes(report(_HEADERS[name], options=DRAWN).dicom)
    errors = dciodvfy_errors(path)
    if name in _MISCOUNTED:
        assert len(errors) == 2
        assert "Length invalid for this VR" in errors[0]
    elif _nonconformant(name):
        # The image's own UID, which can't be changed: the report would stand in another study.
        assert errors
        assert all(" UI " in error or "UID" in error or "data values for Value" in error for error in errors)
    else:
        assert errors == []


@pytest.mark.parametrize("name", _variants())
def test_dciodvfy_finds_no_error_in_any_variant(name: str, tmp_path: Path) -> None:
    path = tmp_path / "report.dcm"
    path.write_bytes(_variants()[name])
    assert dciodvfy_errors(path) == []


def test_dciodvfy_would_find_an_error(tmp_path: Path) -> None:
    path = tmp_path / "report.dcm"
    path.write_bytes(report().dicom.replace(b"UNVERIFIED", b"UNCERTAIN "))
    assert dciodvfy_errors(path)


def _items(item: Dataset, above: tuple[Any, ...] = ()) -> frozenset[Any]:
    """What a template speaks of: each item's place, type, name and code; not texts, numbers and UIDs."""

    def codes(keyword: str) -> tuple[tuple[str, str], ...]:
        return tuple((code.CodeValue, code.CodingSchemeDesignator) for code in item.get(keyword, []))

    here = (
        *above,
        (
            item.get("RelationshipType"),
            item.ValueType,
            codes("ConceptNameCodeSequence"),
            codes("ConceptCodeSequence"),
        ),
    )
    return frozenset({here}).union(*(_items(child, here) for child in item.get("ContentSequence", [])))


def _chosen(reports: list[bytes]) -> list[bytes]:
    """A few reports in which every kind of item occurs, and the one that has the fewest items."""
    items = {dicom: _items(dcmread(BytesIO(dicom))) for dicom in reports}
    chosen = [min(reports, key=lambda dicom: len(items[dicom]))]
    while left := frozenset().union(*items.values()).difference(*(items[dicom] for dicom in chosen)):
        chosen.append(max(reports, key=lambda dicom: len(items[dicom] & left)))
    return chosen


def _check_by_pixelmed(reports: Iterable[bytes], folder: Path) -> None:
    """Have PixelMed read reports, and one that is wrong, in one Java process: each takes it about ten seconds."""
    wrong = folder / "wrong.dcm"
    wrong.write_bytes(report().dicom.replace(b"HAS OBS CONTEXT ", b"HAS PROPERTIES  "))
    paths = []
    for number, dicom in enumerate(reports):
        paths.append(folder / f"{number}.dcm")
        paths[-1].write_bytes(dicom)
    verdicts = pixelmed([*paths, wrong])
    for verdict in map(verdicts.__getitem__, paths):
        assert "Root Template Validation Complete" in verdict, verdict[-2000:]
        assert "IOD validation complete" in verdict
        assert not [line for line in verdict.splitlines() if line.startswith("Error")]
    assert "Error" in verdicts[wrong]


@pytest.mark.slow
def test_pixelmed_finds_no_error_in_what_most_reports_hold(tmp_path: Path) -> None:
    _check_by_pixelmed([report(options=DRAWN).dicom], tmp_path)


@pytest.mark.long
def test_pixelmed_finds_no_error_in_any_template(tmp_path: Path) -> None:
    # It looks at the content tree alone. What a header changes there are some optional items and codes of the image
    # library: a few reports that have all of them stand for the rest.
    variants = _variants()
    kinds = {dcmread(BytesIO(dicom)).SOPClassUID: dicom for dicom in variants.values()}
    made = {report(dicom, options=DRAWN).dicom for dicom in _HEADERS.values()} | set(variants.values())
    _check_by_pixelmed({*_chosen(sorted(made)), *kinds.values()}, tmp_path)


def test_highdicom_reads_the_measurements() -> None:
    sr = pytest.importorskip("highdicom", reason="highdicom is not installed").sr
    document = sr.srread(BytesIO(report().dicom))
    groups = document.content.get_image_measurement_groups()
    assert [group.tracking_identifier for group in groups] == list(LABELS)
    values = [group.get_measurements()[0].value for group in groups]
    assert values == pytest.approx([100 * score for score in SCORES], rel=1e-12)
    # The algorithm's family, a code as well, comes first.
    present = [group.get_qualitative_evaluations()[-1].value.meaning == "Present" for group in groups]
    assert present == [score >= 0.5 for score in SCORES]
    assert len({group.tracking_uid for group in groups}) == len(LABELS)
    evidence = document.get_evidence()
    assert [str(uids[2]) for uids in evidence] == ["1.2.826.0.1.3680043.8.498.1.3"]


def test_highdicom_reads_the_regions() -> None:
    sr = pytest.importorskip("highdicom", reason="highdicom is not installed").sr
    drawn = regions()
    first, second, third, fourth, _ = drawn.frame or ()
    corners = (first, third, second, fourth)  # the ends of the axes of the circle through them
    groups = sr.srread(BytesIO(report(options=DRAWN).dicom)).content.get_image_measurement_groups()
    for group, score, label in zip(groups, SCORES, LABELS, strict=True):
        (measurement,) = group.get_measurements()
        found = [item.value for item in measurement.referenced_coordinates]
        wanted = drawn.findings[label] or (drawn.frame or (),)
        if score < 0.5:
            wanted = (corners,)
        assert [outline.tolist() for outline in found] == [[list(point) for point in one] for one in wanted]
        kinds = {item.graphic_type.value for item in measurement.referenced_coordinates}
        assert kinds == {"POLYLINE" if score >= 0.5 else "ELLIPSE"}
    groups = sr.srread(
        BytesIO(report(scores=NEGATIVE, options=DRAWN).dicom)
    ).content.get_image_measurement_groups()
    assert [group.tracking_identifier for group in groups] == [*LABELS, "Summary"]
    (highest,) = groups[-1].get_measurements()
    assert highest.value == pytest.approx(100 * max(NEGATIVE))
    assert [item.value.tolist() for item in highest.referenced_coordinates] == [
        [list(point) for point in drawn.frame or ()]
    ]


@pytest.mark.parametrize("language", ["en", "pt-BR"])
def test_dsrdump_reads_it_without_a_complaint(language: str, tmp_path: Path) -> None:
    path = tmp_path / "report.dcm"
    path.write_bytes(report(options=Options(language, regions="activation")).dicom)
    run = subprocess.run([program("dsrdump"), "+Pl", str(path)], capture_output=True, check=True)
    complaints = [line for line in run.stderr.decode().splitlines() if line]
    assert all("not an allowed" not in line and line[0] != "E" for line in complaints), complaints
    shown = run.stdout.decode()
    for score, label in zip(SCORES, LABELS, strict=True):
        assert f'"{percent_text(score)}" ' in shown
        assert f'="{label}">' in shown
    assert vocabulary(language, "open").phrases["disclaimer"] in shown


@pytest.mark.parametrize("language", ["en", "pt-BR"])
def test_dsr2html_shows_what_a_reader_must_know(language: str, tmp_path: Path) -> None:
    path, page = tmp_path / "report.dcm", tmp_path / "report.html"
    flags = {Flag.LOOKS_INVERTED}
    options = Options(language, regions="activation")
    path.write_bytes(report(flags=flags, model=SEEDED, options=options).dicom)
    subprocess.run([program("dsr2html"), "+U8", str(path), str(page)], capture_output=True, check=True)
    shown = re.sub(r"\s+", " ", html.unescape(page.read_text(encoding="utf-8")))
    phrases = vocabulary(language, "open").phrases
    for key in ("disclaimer", "meaningless", "flag.looks_inverted", "regions_activation"):
        assert phrases[key].format(cells=7) in shown
    for term in vocabulary(language, "open").findings.values():
        assert term.code.meaning in shown
    assert MODEL.name in shown
    # Summary, disclaimer and all 18 scores, the highest first, stand before the first group, whose title is fixed.
    words = vocabulary(language, "open")
    top = shown[: shown.index(words.codes["image_library"].meaning)]
    assert phrases["disclaimer"] in top
    places = []
    for score, label in sorted(zip(SCORES, LABELS, strict=True), reverse=True):
        places.append(top.rindex(f"{words.findings[label].name} {score_text(percent_text(score), words)}"))
    assert places == sorted(places)


def test_names_of_findings_begin_alike_in_every_coding() -> None:
    for language in ("en", "pt-BR"):
        for coding in ("open", "snomed"):
            terms = vocabulary(language, coding).findings.values()
            assert all(name[0].isupper() for term in terms for name in (term.name, term.code.meaning))


def test_every_score_has_two_decimals() -> None:
    shown = [percent_text(score) for score in (*SCORES, 0.0, 1.0, 0.5, 0.722, 0.49999)]
    assert all(re.fullmatch(r"\d+\.\d\d", one) for one in shown), shown
