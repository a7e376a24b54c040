"""What may be stored beside a report: valid, in the same study, the same again, known as our own, and never a cost."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from celery.exceptions import Reject
from PIL import Image
from pydicom import dcmread

from backlog.broker.job import Job
from backlog.broker.messages import ItemRecord, Stage
from backlog.dicom.eligibility import Rules
from backlog.dicom.file import DicomFile
from backlog.dicom.header import read_header, screen
from backlog.environment import from_environment
from backlog.errors import ServiceUnavailable, UsageError
from backlog.model import LABELS
from backlog.outcomes import Flag, Reason
from backlog.pacs.orthanc import Orthanc
from backlog.settings import DERIVED_OBJECTS, Settings
from producer.sources.orthanc import OrthancSource
from tests.conftest import Cli
from tests.support.dicom_images import chest, dicom
from tests.support.model_inputs import model_input
from tests.support.servers import ROOT, OrthancServer
from tests.support.sr_headers import CASES, NONCONFORMANT
from tests.support.sr_reports import ENGLISH, MODEL, SCORES, SEEDED, WHEN, program
from tests.worker.test_chunk import Message, Shop, images, shop  # noqa: F401  # a fixture
from worker.derived import capture as derived_capture
from worker.derived import dicom as derived_dicom
from worker.derived.capture import draw, jpeg_without_table
from worker.derived.pdf import write_pdf
from worker.derived.table import cells
from worker.model.class_activation import ClassActivation
from worker.model.engine import load
from worker.model.evidence import levels
from worker.model.weights import Weights, locate
from worker.sr.content import ReportContent, report_content
from worker.sr.findings import by_score, percent_text
from worker.sr.inputs import Model, Options
from worker.sr.source_header import read_source
from worker.sr.wording import score_text
from worker.tasks import derived as derived_objects

pytestmark = pytest.mark.slow

PORTUGUESE = Options("pt-BR")
GOOD = CASES["good"].dicom


def said(
    header: bytes = GOOD,
    scores: Any = SCORES,
    flags: Any = (),
    model: Model = MODEL,
    options: Options = ENGLISH,
    when: datetime = WHEN,
) -> ReportContent:
    return report_content(
        read_source(DicomFile(header)), scores, flags, model=model, options=options, when=when
    )


def some_maps(raising: bool = True) -> dict[str, bytes]:
    cells = np.full((7, 7), 1.0 if raising else -1.0, np.float32)
    cells[3, 3] *= 5
    return {label: levels(cells) for label in LABELS}


def grey() -> Any:
    return model_input(dicom(chest(300, 300)), 200).shown


def picture(of: ReportContent, raising: bool = True) -> Any:
    return draw(of, grey(), some_maps(raising))


@cache
def small_picture() -> Any:
    return picture(said())[::40, ::40]  # validators look at attributes


@cache
def large_picture() -> Any:
    return picture(said())


@cache
def pdf_with_picture() -> bytes:
    return write_pdf(said(), large_picture())  # validators look at attributes


def made(of: ReportContent) -> dict[str, bytes]:
    return made_of_a_header(of) | {
        "pdf-picture": derived_dicom.document(of, pdf_with_picture(), "pdf-picture"),
    }


def made_of_a_header(of: ReportContent) -> dict[str, bytes]:
    """One of each SOP class: a PDF with a picture has the attributes of one without."""
    return {
        "capture": derived_dicom.capture(of, small_picture()),
        "pdf": derived_dicom.document(of, write_pdf(of)),
    }


# -- the objects ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.refused is None])
def test_they_are_valid_whatever_the_header(name: str, tmp_path: Path) -> None:
    make = made if name == "good" else made_of_a_header
    for kind, content in make(said(CASES[name].dicom, model=SEEDED, options=PORTUGUESE)).items():
        path = tmp_path / kind
        path.write_bytes(content)
        run = subprocess.run([program("dciodvfy"), str(path)], capture_output=True, check=False)
        lines = (run.stdout + run.stderr).decode("utf-8", "replace").splitlines()
        assert ("SCImage" if kind == "capture" else "EncapsulatedPDF") in lines
        known = "character_string_value_too_long" if "UTF-8" in name else "-"
        wrong = [line for line in lines if line.startswith(("Error", "Abort")) and known not in line]
        assert not wrong, (kind, wrong)


def test_derived_objects_are_in_the_study_and_say_what_they_are() -> None:
    source = dcmread(io.BytesIO(GOOD), stop_before_pixels=True, force=True)
    of = said()
    seen = {kind: dcmread(io.BytesIO(content)) for kind, content in made(of).items()}
    for one in seen.values():
        for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "AccessionNumber", "StudyDate"):
            assert one[keyword].value == source[keyword].value
        assert one.SeriesInstanceUID not in (source.SeriesInstanceUID, of.series_instance_uid)
        assert "RESEARCH ONLY" in one.SeriesDescription
        assert (one.Manufacturer, one.ManufacturerModelName) == ("cxr-backlog", "cxr-backlog")
        assert one.BurnedInAnnotation == "YES"
    assert len({one.SeriesInstanceUID for one in seen.values()}) == 3
    assert len({one.SeriesNumber for one in seen.values()} | {of.series_number}) == 4
    assert len({one.SOPInstanceUID for one in seen.values()} | {of.sop_instance_uid}) == 4
    capture, pdf = seen["capture"], seen["pdf"]
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert pdf.SourceInstanceSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert np.array_equal(capture.pixel_array, small_picture())
    assert pdf.EncapsulatedDocument[: pdf.EncapsulatedDocumentLength] == write_pdf(of)


def test_the_same_report_gives_the_same_bytes_others_other_uids() -> None:
    assert made(said()) == made(said())
    assert np.array_equal(picture(said()), picture(said()))
    others = [said(model=SEEDED), said(options=PORTUGUESE), said(CASES["no view"].dicom)]
    uids = {derived_dicom.uid(one, kind) for one in [said(), *others] for kind in DERIVED_OBJECTS}
    assert len(uids) == 3 * 3  # the header "no view" is of the same image
    later = said(when=datetime(2031, 1, 1, tzinfo=UTC))
    assert derived_dicom.uid(later, "pdf") == derived_dicom.uid(said(), "pdf")


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_an_uid_that_breaks_the_rules_is_carried_as_it_is() -> None:
    for case in NONCONFORMANT.values():
        of = said(case.dicom)
        for content in made(of).values():
            assert dcmread(io.BytesIO(content)).StudyInstanceUID == of.source.study_instance_uid


def test_our_own_are_known_and_another_makers_are_not() -> None:
    for content in made(said()).values():
        header = read_header(content)
        rejection = screen(header, Rules(any_body_part=True)).rejection
        assert rejection is not None
        assert rejection.reason is Reason.OWN_REPORT
        header.ManufacturerModelName = "another"
        rejection = screen(header, Rules(any_body_part=True)).rejection
        assert rejection is None or rejection.reason is not Reason.OWN_REPORT
    # An image that was converted by a tool of ours says how it was taken.
    scanned = dicom(
        chest(), SOPClassUID=derived_dicom.CLASSES["capture"], ManufacturerModelName="cxr-backlog"
    )
    assert screen(read_header(scanned), Rules()).rejection is None


def test_they_are_no_items_of_an_orthanc(orthanc: OrthancServer) -> None:
    pacs = Orthanc(orthanc.url, username=orthanc.username, password=orthanc.password)
    image = dicom(chest(64, 64))
    wanted = pacs.store(image).instance
    for content in made(said(image)).values():
        pacs.store(content)
    assert [entry.ref for page in OrthancSource(pacs, Rules()).pages("") for entry in page.entries] == [
        wanted
    ]
    assert len(pacs.series_ids(0, 10, {})) == 4
    pacs.close()


# -- the PDF -------------------------------------------------------------------------------------------------


def text_of(pdf: bytes, tmp_path: Path) -> str:
    path = tmp_path / "report.pdf"
    path.write_bytes(pdf)
    done = subprocess.run([program("pdftotext"), "-layout", str(path), "-"], capture_output=True, check=True)
    assert not done.stderr, done.stderr
    return done.stdout.decode()


@pytest.mark.parametrize("options", [ENGLISH, PORTUGUESE])
def test_the_pdf_says_what_the_report_says(options: Options, tmp_path: Path) -> None:
    of = said(options=options)
    text = " ".join(text_of(write_pdf(of), tmp_path).split())
    for finding in of.findings:
        assert " ".join(cells(of, finding)) in text
    for sentence in (
        of.narrative,
        *of.comments,
        of.words.phrases["capture_banner"],
        of.source.sop_instance_uid,
    ):
        assert " ".join(sentence.split()) in text
    assert of.words.phrases["capture_meaningless"] not in text
    for patient in ("DOE, JANE", "PID-0007", "1960-01-01 F", "2024-02-29", "ACC-0042"):
        assert patient in text


def test_the_table_begins_with_the_highest_score(tmp_path: Path) -> None:
    of = said(options=PORTUGUESE)
    text = text_of(write_pdf(of), tmp_path)
    values = [finding.value or 0.0 for finding in by_score(of.findings)]
    assert values == sorted(values, reverse=True)
    shown = [score_text(finding.percent, of.words) for finding in by_score(of.findings)]
    assert all(re.fullmatch(r"\d{1,3},\d\d%", one) for one in shown)
    table = re.findall(r"\s(\d{1,3},\d\d%)\s+(?:Presente|Ausente|Present|Absent)", text)
    assert table == shown
    highest = by_score(of.findings)[0]
    assert f"{of.words.findings[highest.label].name} {shown[0]}" in of.narrative


def test_a_score_below_the_operating_point_never_reads_as_at_it() -> None:
    words = said().words
    scores = (0.499961, 0.49999999, 0.5, 0.5004, 0.0, 1.0)
    assert [score_text(percent_text(score), words) for score in scores] == [
        *("49.99%", "49.99%", "50.00%", "50.04%", "0.00%", "100.00%")
    ]


def test_the_pdf_of_seeded_weights_says_its_scores_mean_nothing(tmp_path: Path) -> None:
    of = said(model=SEEDED, options=PORTUGUESE)
    assert "ESTES ESCORES NÃO SIGNIFICAM NADA" in text_of(write_pdf(of), tmp_path)


def test_the_pdf_goes_on_on_another_page_and_loses_no_word(tmp_path: Path) -> None:
    of = said(flags=list(Flag), scores=[0.9] * 18)
    of = dataclasses.replace(of, comments=of.comments * 4)
    pdf = write_pdf(of)
    shown = text_of(pdf, tmp_path)
    pages = [page for page in shown.split("\f") if page.strip()]
    assert len(pages) > 1
    assert all(of.words.phrases["capture_mark"] in page for page in pages)
    words = shown.split()
    for comment in of.comments:
        assert words.count(comment.split()[-1]) >= 4


def test_no_line_of_the_pdf_leaves_the_page(tmp_path: Path) -> None:
    path = tmp_path / "report.pdf"
    for options in (ENGLISH, PORTUGUESE):
        path.write_bytes(write_pdf(said(flags=list(Flag), scores=[0.9] * 18, model=SEEDED, options=options)))
        done = subprocess.run(
            [program("pdftotext"), "-bbox", str(path), "-"], capture_output=True, check=True, text=True
        )
        right = [float(edge) for edge in re.findall(r'xMax="([\d.]+)"', done.stdout)]
        assert len(right) > 100
        assert max(right) <= 595 - 50


def test_a_pdf_has_a_picture_where_a_run_asks_for_one(tmp_path: Path) -> None:
    of = said(options=PORTUGUESE)
    path = tmp_path / "report.pdf"

    def images_in(pdf: bytes) -> list[list[str]]:
        path.write_bytes(pdf)
        done = subprocess.run(
            [program("pdfimages"), "-list", str(path)], capture_output=True, check=True, text=True
        )
        return [line.split() for line in done.stdout.splitlines()[2:]]

    assert images_in(write_pdf(of)) == []
    pdf = write_pdf(of, large_picture())
    assert pdf == write_pdf(of, large_picture())
    ((page, _, _, width, height, *_),) = images_in(pdf)
    assert (page, int(width), int(height)) == ("1", 2 * 640 + 48, 640 + 60)
    words, without = (set(text_of(one, tmp_path).split()) for one in (pdf, write_pdf(of)))
    assert without <= words


def test_a_picture_for_a_page_ends_before_the_table() -> None:
    jpeg, shape = jpeg_without_table(large_picture())
    with Image.open(io.BytesIO(jpeg)) as page:
        pixels = np.asarray(page.convert("RGB")).astype(int)
    rows, columns, _ = pixels.shape
    assert shape == rows / columns
    margin = pixels[:, 2 * derived_capture.SIDE + 2 * derived_capture.GAP + 8 :]
    assert margin.size > 0
    # A frame's red is far away from the ground; a JPEG's rounding is not.
    assert margin.max() - margin.min() < 24


def test_every_font_of_the_pdf_is_embedded(tmp_path: Path) -> None:
    path = tmp_path / "report.pdf"
    path.write_bytes(write_pdf(said(options=PORTUGUESE)))
    done = subprocess.run([program("pdffonts"), str(path)], capture_output=True, check=True, text=True)
    fonts = done.stdout.splitlines()[2:]
    assert len(fonts) == 2
    for font in fonts:
        assert font.split()[-5] == "yes", font  # the column "emb"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("DOE^JANE", "DOE, JANE"),
        ("Muñoz^José María^^Dr^", "Muñoz, Dr José María"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada, Tarou"),
        ("山田^太郎", "(in letters that this page cannot show; see the DICOM attributes)"),
        ("", ""),
    ],
)
def test_the_pdf_shows_a_name_whole_or_not_at_all(name: str, shown: str, tmp_path: Path) -> None:
    of = said()
    copied = {**of.source.copied_attributes, "PatientName": name}
    of = dataclasses.replace(of, source=dataclasses.replace(of.source, copied_attributes=copied))
    text = text_of(write_pdf(of), tmp_path)
    (line,) = (line for line in text.splitlines() if line.split()[:1] == ["Patient"] and "ID" not in line)
    assert " ".join(line.split()[1:]) == shown


def test_brackets_and_backslashes_stay_text(tmp_path: Path) -> None:
    of = dataclasses.replace(said(), narrative=r"a (b \c) )( d")
    assert r"a (b \c) )( d" in text_of(write_pdf(of), tmp_path)


def test_a_score_that_is_no_number_has_a_dash(tmp_path: Path) -> None:
    of = said(scores=[float("nan"), *SCORES[1:]])
    assert cells(of, of.findings[0])[1] == "-"
    picture(of)


# -- the picture ---------------------------------------------------------------------------------------------


def test_the_picture_shows_the_image_and_a_heat_map() -> None:
    side, top, gap = derived_capture.SIDE, derived_capture.TOP, derived_capture.GAP
    drawn = picture(said()).astype(int)
    left = drawn[top : top + side, gap : gap + side]
    right = drawn[top : top + side, 2 * gap + side : 2 * (gap + side)]
    plain = left[: side - 60]
    assert np.array_equal(plain[..., 0], plain[..., 2])
    assert plain.std() > 20
    warmth = right[..., 0] - right[..., 2]
    middle = side // 2
    assert warmth[middle - 20 : middle + 20, middle - 20 : middle + 20].mean() > warmth[:60, :60].mean() + 20


def test_without_a_region_that_raises_the_score_no_heat_is_drawn() -> None:
    side, top, gap = derived_capture.SIDE, derived_capture.TOP, derived_capture.GAP
    drawn = picture(said(), raising=False)
    right = drawn[top : top + side - 60, 2 * gap + side : 2 * (gap + side)]
    assert np.array_equal(right[..., 0], right[..., 2])
    assert not np.array_equal(drawn[:top], picture(said())[:top]), "the caption is the same"


def test_what_the_picture_is_stands_in_each_of_its_parts() -> None:
    side, top, gap = derived_capture.SIDE, derived_capture.TOP, derived_capture.GAP
    for model in (MODEL, SEEDED):
        drawn = picture(said(model=model))
        for left in (gap, 2 * gap + side):
            foot = drawn[top + side - 60 : top + side, left : left + side].reshape(-1, 3)
            assert (foot == derived_capture.ALARM).all(axis=1).sum() > 500
        assert (drawn[:50].reshape(-1, 3) == derived_capture.ALARM).all(axis=1).sum() > 500
    table = (slice(top, top + side), slice(3 * gap + 2 * side, None))
    red = [
        (picture(said(model=model))[table].reshape(-1, 3) == derived_capture.ALARM).all(axis=1).sum()
        for model in (MODEL, SEEDED)
    ]
    assert red[1] > red[0] + 500, "the table of seeded weights says nothing of them"


def test_every_letter_that_is_drawn_is_in_the_font() -> None:
    font = derived_capture.load_font(20)
    absent = bytes(cast("Any", font.getmask("\uffff")))
    for options in (ENGLISH, PORTUGUESE):
        words = said(options=options).words
        texts = [*words.phrases.values(), *(term.name for term in words.findings.values())]
        for letter in set("".join(texts)) - {" "}:
            assert bytes(cast("Any", font.getmask(letter))) != absent, letter


def test_a_picture_for_people_has_the_window_of_the_models() -> None:
    for size in (64, 500, 900):
        seen = model_input(dicom(chest(size, size)), 200)
        assert seen.shown is not None
        assert seen.shown.dtype == np.uint8
        assert len(seen.shown) == {64: 64, 500: 250, 900: 225}[size]
        model = np.clip((seen.image[20:-20, 20:-20] + 1024) / 8, 0, 255)
        assert abs(float(seen.shown.mean()) - float(model.mean())) < 20
    assert model_input(dicom(chest(500, 500))).shown is None


# -- the heat map --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(model_cache: Path) -> Weights:
    return locate("seeded", "", model_cache, download=False)


@pytest.fixture(scope="module")
def class_activation(weights: Weights) -> ClassActivation:
    return ClassActivation(weights)


def test_the_map_is_that_of_the_gradient(weights: Weights, class_activation: ClassActivation) -> None:
    """Grad-CAM as its paper has it: gradients, pooled, weigh the last feature maps."""
    import torch

    from worker.model.torch_model import Scorer, network

    model = Scorer(network(weights), weights.model.points)
    image = model_input(dicom(chest(300, 300))).image
    activations = model.activations(torch.from_numpy(image.copy())[None, None])
    activations.retain_grad()
    logits = model.classifier(activations.mean((2, 3)))
    found = class_activation(image)
    for finding in (0, 7, 17):
        activations.grad = None
        logits[0, finding].backward(retain_graph=True)
        assert activations.grad is not None
        weighed = (activations.grad.mean((2, 3))[0, :, None, None] * activations[0]).sum(0)
        expected = torch.relu(weighed).detach().numpy()
        assert expected.max() > 0
        assert np.abs(found.heat(finding) - expected / expected.max()).max() < 1e-3


def test_the_model_with_maps_gives_the_models_scores(
    weights: Weights, class_activation: ClassActivation
) -> None:
    image = model_input(dicom(chest(300, 300))).image
    engine = load(weights, engine="onnxruntime", threads=1)
    assert np.abs(class_activation(image).scores - engine.scores(image[None, None])[0]).max() < 1e-5


# -- the report stage ----------------------------------------------------------------------------------------


def until_report(
    shop: Shop,  # noqa: F811
    kinds: list[str] | None,
    count: int = 1,
    **more: str,
) -> Message:
    """Do what comes before the reports; return their message, with what it asks for beside them."""
    shop.submit(images(count), **more)
    for stage in (Stage.UPLOAD, Stage.INFER):
        for job, number, items in shop.take(stage):
            asked: Job = job if kinds is None else {**job, "derived_objects": kinds}
            shop.do(stage, (asked, number, items))
    (message,) = shop.take(Stage.REPORT)
    return message


def kept(record: ItemRecord) -> dict[str, dict[str, Any]]:
    return {one["kind"]: cast("dict[str, Any]", one) for one in record["derived_objects"]}


def test_derived_objects_stand_beside_each_report(shop: Shop) -> None:  # noqa: F811
    shop.do(Stage.REPORT, until_report(shop, ["capture", "pdf"], 2))
    assert len(shop.files()) == 2 * 4
    for record in shop.records().values():
        assert record["outcome"] == "reported"
        for kind, one in kept(record).items():
            held = dcmread(io.BytesIO(shop.process.pacs.fetch(one["instance"])))
            assert held.SOPClassUID == derived_dicom.CLASSES[kind]
            assert held.SOPInstanceUID == one["sop_instance_uid"]
            assert held.StudyInstanceUID == record["study_instance_uid"]
            assert "SCORES MEAN NOTHING" in held.SeriesDescription
            assert one["ours"] is True


def test_derived_objects_are_the_same_when_delivered_again(shop: Shop) -> None:  # noqa: F811
    message = until_report(shop, ["capture", "pdf"])
    shop.do(Stage.REPORT, message)
    first, held = shop.records(), shop.files()
    for _ in range(2):
        shop.claims.broker.client.flushall()
        shop.do(Stage.REPORT, until_report(shop, ["capture", "pdf"]))
        assert (shop.records(), shop.files()) == (first, held)


def test_a_later_runs_stand_beside_the_reports_of_an_earlier_one(shop: Shop) -> None:  # noqa: F811
    shop.do(Stage.REPORT, until_report(shop, ["pdf"]))
    when = "2027-01-01T00:00:00+00:00"
    shop.do(Stage.REPORT, until_report(shop, ["capture", "pdf"], run="run2", when=when))
    record = shop.records("run2")[0]
    assert record["sr_ours"] is False
    assert {kind: one["ours"] for kind, one in kept(record).items()} == {"capture": True, "pdf": False}
    assert kept(record)["pdf"]["sha256"] == kept(shop.records()[0])["pdf"]["sha256"]


@pytest.mark.parametrize("evidence", [None, {"maps": {}}, {"seen": {}, "maps": {"Mass": "no"}}])
def test_a_picture_without_maps_is_missing_and_costs_no_report(
    shop: Shop,  # noqa: F811
    evidence: Any,
) -> None:
    job, number, items = until_report(shop, ["capture", "pdf"], 2)
    del items[0]["evidence"]
    if evidence is not None:
        items[0]["evidence"] = evidence
    shop.do(Stage.REPORT, (job, number, items))
    ends = shop.records()
    assert [end["outcome"] for end in ends.values()] == ["reported"] * 2
    assert kept(ends[0])["capture"]["reason"] == "internal_error"
    assert "instance" in kept(ends[0])["pdf"]
    assert "instance" in kept(ends[1])["capture"]
    assert len(shop.files()) == 2 * 4 - 1


def test_a_picture_needs_neither_model_nor_weights(
    shop: Shop,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    message = until_report(shop, ["capture"])
    (scored,) = message[2]
    assert list(scored["evidence"]["maps"]) == [LABELS[int(np.argmax(scored["scores"]))]]
    shop.process.__dict__.pop("engine", None)
    shop.process.__dict__.pop("weights", None)
    for name in (
        "onnxruntime",
        "worker.model.engine",
        "worker.model.weights",
        "worker.model.class_activation",
    ):
        monkeypatch.setitem(sys.modules, name, None)  # importing it fails
    shop.do(Stage.REPORT, message)
    assert "instance" in kept(shop.records()[0])["capture"]


@pytest.mark.parametrize(
    ("error", "reason"), [(ZeroDivisionError(), "internal_error"), (MemoryError(), "out_of_memory")]
)
def test_a_bug_in_drawing_costs_the_picture_alone(
    shop: Shop,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    reason: str,
) -> None:
    def broken(*_: object) -> None:
        raise error

    message = until_report(shop, ["capture", "pdf"])
    monkeypatch.setattr(derived_capture, "draw", broken)
    shop.do(Stage.REPORT, message)
    record = shop.records()[0]
    assert record["outcome"] == "reported"
    assert kept(record)["capture"]["reason"] == reason
    assert "instance" in kept(record)["pdf"]


def test_an_image_deleted_meanwhile_has_a_report_and_no_picture(
    shop: Shop,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    message = until_report(shop, ["capture"])
    header = shop.process.pacs.header(message[2][0]["instance"])
    shop.process.pacs.delete(message[2][0]["instance"])
    monkeypatch.setattr(shop.process.pacs, "header", lambda _: header, raising=False)
    shop.do(Stage.REPORT, message)
    assert kept(shop.records()[0])["capture"]["reason"] == "not_in_pacs"


def test_a_changed_derived_object_is_noticed_on_read_back(
    shop: Shop,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job, number, items = until_report(shop, ["pdf"])
    fetch = shop.process.pacs.fetch
    monkeypatch.setattr(
        shop.process.pacs, "fetch", lambda i: fetch(i).replace(b"%PDF-1.4", b"%PDF-1.5"), raising=False
    )
    shop.do(Stage.REPORT, ({**job, "read_back": True}, number, items))
    record = shop.records()[0]
    assert (record["outcome"], kept(record)["pdf"]["reason"]) == ("reported", "report_conflict")


def test_a_pacs_that_goes_away_in_between_costs_nothing(
    shop: Shop,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    message = until_report(shop, ["capture", "pdf"])
    store, seen = shop.process.pacs.store, []

    def away(content: bytes, of: Any = None) -> Any:
        seen.append(len(content))
        if len(seen) in (2, 4):
            raise ServiceUnavailable("away")
        return store(content, of)

    monkeypatch.setattr(shop.process.pacs, "store", away, raising=False)
    with pytest.raises(Reject):
        shop.do(Stage.REPORT, message)
    shop.do(Stage.REPORT, message, retry_budget=10.0)
    assert all(one["ours"] for one in kept(shop.records()[0]).values())
    assert len(shop.files()) == 4


@pytest.mark.parametrize("lacking", ["PIL", "reportlab", "gdcm", "numpy"])
def test_a_worker_that_cant_draw_refuses_before_it_writes(
    shop: Shop,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    lacking: str,
) -> None:
    message = until_report(shop, ["capture", "pdf"])
    held = shop.files()
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == lacking else found(name))
    with pytest.raises(Reject):
        shop.do(Stage.REPORT, message)
    with pytest.raises(UsageError, match=r"cxr-backlog\[codecs,derived\]"):
        derived_objects.need(message[0])
    assert shop.files() == held


def test_a_kind_from_the_future_is_refused(shop: Shop) -> None:  # noqa: F811
    message = until_report(shop, ["hologram"])
    with pytest.raises(Reject):
        shop.do(Stage.REPORT, message)
    with pytest.raises(UsageError, match="update it"):
        derived_objects.need(message[0])


# -- a run without -------------------------------------------------------------------------------------------


def test_a_run_without_loads_nothing_and_asks_for_nothing_more(
    shop: Shop,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job, number, items = until_report(shop, None, 2)
    assert "derived_objects" not in job
    for name in ("worker.tasks.derived", "worker.model.class_activation", "PIL"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it fails
    asked: list[str] = []

    def watched(name: str, real: Any) -> Any:
        def call(*arguments: Any) -> Any:
            asked.append(name)
            return real(*arguments)

        return call

    for name in ("store", "fetch", "header"):
        real = getattr(shop.process.pacs, name)
        monkeypatch.setattr(shop.process.pacs, name, watched(name, real), raising=False)
    shop.do(Stage.REPORT, (job, number, items))
    # The first report of a chunk is read back: a PACS may keep reports in another form.
    assert sorted(asked) == ["fetch", "header", "header", "store", "store"]
    assert all("derived_objects" not in record for record in shop.records().values())


def test_the_worker_loads_nothing_for_them() -> None:
    theirs = (
        *("worker.derived.capture", "worker.derived.pdf", "worker.derived.dicom"),
        *("worker.tasks.derived", "worker.model.class_activation", "reportlab"),
    )
    look = f"import sys, worker.main; print([name for name in sys.modules if name.startswith({theirs})])"
    done = subprocess.run([sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# -- the run -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kinds"), [("", []), ("pdf", ["pdf"]), (" pdf, capture ,pdf,", ["capture", "pdf"])]
)
def test_the_setting_lists_kinds(text: str, kinds: list[str]) -> None:
    assert from_environment({"CXR_DERIVED_OBJECTS": text}).derived_object_kinds == kinds


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UsageError, match="'jpeg' is no derived object"):
        _ = Settings(derived_objects="pdf,jpeg").derived_object_kinds


@pytest.fixture
def backlog(tmp_path: Path) -> Path:
    folder = tmp_path / "backlog"
    folder.mkdir()
    for name, content in images(2).items():
        (folder / f"{name}.dcm").write_bytes(content)
    return folder


def test_a_run_with_derived_objects_from_end_to_end(cli: Cli, backlog: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = cli("run", backlog, "--out", out, "--workers", 1, "--derived-objects", "capture,pdf-picture")
    assert done.returncode == 0, done.stderr + done.stdout
    summary = json.loads((out / "summary.json").read_text())
    assert summary["derived_objects"] == {"capture": {"stored": 2}, "pdf-picture": {"stored": 2}}
    files = {path: dcmread(path).Modality for path in (out / "pacs").rglob("*.dcm")}
    assert sorted(files.values()) == sorted(["DX", "SR", "OT", "DOC"] * 2)
    assert cli("verify", out).returncode == 0
    effects = [json.loads(line) for line in (out / "audit.jsonl").read_text().splitlines()]
    beside = [line for line in effects if line["effect"] == "derived_objects.stored"]
    assert [len(line["derived_objects"]) for line in beside] == [2, 2]
    assert all("derived_objects" not in line for line in effects if line not in beside)

    # A second run over what the first left: nothing of it is scored again.
    again = cli("run", out / "pacs", "--out", tmp_path / "again", "--workers", 1, "--pacs", out / "pacs")
    assert again.returncode == 0, again.stderr + again.stdout
    summary = json.loads((tmp_path / "again" / "summary.json").read_text())
    assert (summary["reported"], summary["skipped"]) == (2, {"own_report": 6})
    assert "derived_objects" not in summary

    picture = next(path for path, modality in files.items() if modality == "OT")
    record_write = next(path for path, modality in files.items() if modality == "DOC")
    record_write.write_bytes(record_write.read_bytes() + b"\0\0")
    assert "Different   1" in cli("verify", out).stdout
    kept_aside = picture.read_bytes()
    picture.unlink()
    verdict = cli("verify", out)
    assert verdict.returncode != 0
    assert "Missing     1" in verdict.stdout
    picture.write_bytes(kept_aside)

    assert "and 4 pictures and PDFs beside them" in cli("retract", out).stdout
    taken = cli("retract", out, "--yes")
    assert "Deleted 2 reports and 3 pictures and PDFs beside them." in taken.stdout
    left = sorted(dcmread(path).Modality for path in (out / "pacs").rglob("*.dcm"))
    assert left == ["DOC", "DX", "DX"], "what was changed stays, the images stay"
    assert cli("audit", "verify", out).returncode == 0
    effects = [json.loads(line)["effect"] for line in (out / "audit.jsonl").read_text().splitlines()]
    assert effects.count("derived_objects.retracted") == 2


def test_retracting_derived_objects_leaves_earlier_reports(cli: Cli, backlog: Path, tmp_path: Path) -> None:
    pacs = tmp_path / "pacs"
    assert cli("run", backlog, "--out", tmp_path / "one", "--workers", 1, "--pacs", pacs).returncode == 0
    held = {path: path.read_bytes() for path in pacs.rglob("*.dcm")}
    assert len(held) == 4
    second = cli(
        "run", backlog, "--out", tmp_path / "two", "--workers", 1, "--pacs", pacs, CXR_DERIVED_OBJECTS="pdf"
    )
    assert second.returncode == 0, second.stderr
    assert len(list(pacs.rglob("*.dcm"))) == 6
    taken = cli("retract", tmp_path / "two", "--yes")
    assert "Deleted 0 reports and 2 pictures and PDFs beside them." in taken.stdout
    assert {path: path.read_bytes() for path in pacs.rglob("*.dcm")} == held


def test_an_unknown_kind_makes_no_run(cli: Cli, backlog: Path, tmp_path: Path) -> None:
    done = cli("run", backlog, "--out", tmp_path / "out", "--derived-objects", "hologram")
    assert done.returncode == 2
    assert "hologram" in done.stderr
    assert not (tmp_path / "out" / "ledger.sqlite").exists()
