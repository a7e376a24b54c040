"""The encoder writes what highdicom would, byte for byte."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backlog.model import LABELS
from backlog.outcomes import Flag
from tests.support.sr_reports import (
    DRAWN,
    EVERY_OPTION,
    GOOD,
    MODEL,
    SCORES,
    SEEDED,
    WHEN,
    headers,
    regions,
    source_of,
)
from worker.sr import document as sr_document
from worker.sr.build import Model, Options, Predecessor
from worker.sr.content import ReportContent, report_content

sr_highdicom = pytest.importorskip("bench.reference.highdicom_sr", reason="highdicom is not installed")

_HEADERS = headers()
_EARLIER = Predecessor("1.2.840.10008.5.1.4.1.1.88.34", "2.25.11", "2.25.12", "1.2.826.0.1.3680043.8.498.1.1")


def assert_same(content: ReportContent) -> None:
    ours, theirs = sr_document.encode(content), sr_highdicom.encode(content)
    if ours != theirs:
        at = next(index for index, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b)
        pytest.fail(f"differ at byte {at}: {ours[at - 60 : at + 40]!r} / {theirs[at - 60 : at + 40]!r}")


#: One of each kind that regions tell apart: present with one region, with two, with that of the whole image; absent.
_KINDS = {"Atelectasis", "Enlarged Cardiomediastinum", "Effusion", "Pneumothorax"}


@pytest.mark.slow
@pytest.mark.parametrize("name", _HEADERS)
def test_the_bytes_are_highdicoms_for_every_header(name: str) -> None:
    """With the findings of a few kinds: a header changes all of a kind alike, and highdicom takes its time for each."""
    dicom = _HEADERS[name]
    content = report_content(
        source_of(dicom), SCORES, (), model=MODEL, options=DRAWN, when=WHEN, regions=regions(dicom)
    )
    few = tuple(finding for finding in content.findings if finding.label in _KINDS)
    assert len(few) == len(_KINDS)
    assert_same(replace(content, findings=few))


@pytest.mark.parametrize("options", EVERY_OPTION, ids=lambda o: f"{o.language}-{o.coding}-{o.iod}")
@pytest.mark.parametrize("model", [MODEL, SEEDED], ids=["trained", "seeded"])
def test_the_bytes_are_highdicoms_for_every_option(options: Options, model: Model) -> None:
    scores = [math.nan, *SCORES[1:]]
    content = report_content(
        source_of(GOOD),
        scores,
        set(Flag),
        model=model,
        options=options,
        when=WHEN,
        predecessor=_EARLIER,
        regions=regions(),
    )
    assert_same(content)


# highdicom takes a third of a second for each example: few, and chosen anew by hypothesis every time.
@pytest.mark.slow
@settings(max_examples=25)
@given(
    header=st.sampled_from(sorted(_HEADERS)),
    scores=st.lists(st.floats(0, 1) | st.just(math.nan), min_size=len(LABELS), max_size=len(LABELS)).filter(
        lambda scores: not all(map(math.isnan, scores))
    ),
    flags=st.sets(st.sampled_from(Flag)),
    options=st.sampled_from(EVERY_OPTION),
    model=st.sampled_from([MODEL, SEEDED]),
    when=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    predecessor=st.sampled_from([None, _EARLIER]),
)
def test_the_bytes_are_highdicoms_for_any_scores(
    header: str,
    scores: list[float],
    flags: set[Flag],
    options: Options,
    model: Model,
    when: datetime,
    predecessor: Predecessor | None,
) -> None:
    source = source_of(_HEADERS[header])
    assert_same(
        report_content(
            source,
            scores,
            flags,
            model=model,
            options=options,
            when=when,
            predecessor=predecessor,
            regions=regions(_HEADERS[header]),
        )
    )
