"""The gallery: which images it chooses, what its page says, and what a browser does with it."""

from __future__ import annotations

import base64
import io
import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from backlog.model import LABELS
from backlog.output_file import OutputFile
from producer.cli.main import main
from producer.gallery.images import Picture, Pictures
from producer.gallery.page import About, write_gallery
from producer.gallery.selection import Wanted, choose, find_flag, find_label
from producer.ledger.ledger import Ledger
from producer.viewer_link import ViewerLink
from tests.conftest import need
from tests.support.browser import Browser
from tests.support.ended_runs import ended_run, harvest, list_items, new_ledger, reported, some_scores
from tests.support.servers import wait_until

COUNT = 40
PNEUMOTHORAX = LABELS.index("Pneumothorax")
HTML = '"><img src=x onerror="window.hacked=1"></script><script>window.hacked=1</script>'


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A run whose every third image looks inverted, and every fourth has a flag whose name begins with another's."""
    ledger = new_ledger(tmp_path / "run")
    list_items(ledger, COUNT)

    def record(item: int) -> Any:
        flags = ["looks_inverted"] * (item % 3 == 0) + ["modality_lut_ignored"] * (item % 4 == 0)
        return reported(item, some_scores(item), flags=flags)

    harvest(ledger, record)
    yield ledger
    ledger.close()


def numbers(ledger: Ledger, **wanted: Any) -> list[int]:
    return [row.no for row in choose(ledger, Wanted(**wanted)).rows]


# -- which images --------------------------------------------------------------------------------------------


def test_the_highest_scores_of_a_finding_come_first(ledger: Ledger) -> None:
    scores = {item.no: json.loads(item.scores)[PNEUMOTHORAX] for item in ledger.items()}
    expected = sorted(scores, key=lambda number: -scores[number])
    assert numbers(ledger, finding="Pneumothorax", top=7) == expected[:7]
    flagged = [number for number in expected if number % 3 == 0]
    assert numbers(ledger, finding="Pneumothorax", flag="looks_inverted", top=5) == flagged[:5]


def test_a_flag_is_a_whole_word_and_what_is_left_out_is_said(ledger: Ledger) -> None:
    assert numbers(ledger, flag="modality_lut_ignored") == list(range(0, COUNT, 4))
    chosen = choose(ledger, Wanted(flag="looks_inverted", top=5))
    assert [row.no for row in chosen.rows] == [0, 3, 6, 9, 12]
    assert chosen.notes == ["9 more images have the flag looks_inverted; --top shows more"]


def test_a_sample_is_the_same_again_and_another_for_another_run(ledger: Ledger, tmp_path: Path) -> None:
    first = numbers(ledger, sample=10)
    assert first == numbers(ledger, sample=10)
    assert len(set(first)) == 10
    assert set(numbers(ledger, sample=5, flag="looks_inverted")) <= set(range(0, COUNT, 3))
    more = choose(ledger, Wanted(sample=100))
    assert len(more.rows) == COUNT
    assert more.notes == [f"there are no more than {COUNT} such images"]


@pytest.mark.parametrize(
    ("text", "expected", "notes"),
    [
        ("1.2.3.7\n1.2.3.2\n1.2.3.7\n", [7, 2], []),
        (
            "\ufeffsop_instance_uid,note\r\n1.2.3.7,a\r\n9.9,b\r\n",
            [7],
            ["1 of 2 listed have no report in this run"],
        ),
        ("site;study_instance_uid\nA;1.2.3\n", [6, 7], []),
        ('"site";"Study Instance UID"\n"A";"1.2.3"\n', [6, 7], []),
        ('sep=;\nsite;SOPInstanceUID\n;\n"A";"=""1.2.3.7"""\n', [7], []),
        ('"1.2.3.7"\n\n"1.2.3.2"\n', [7, 2], []),
    ],
)
def test_a_list_gives_the_order(
    ledger: Ledger, tmp_path: Path, text: str, expected: list[int], notes: list[str]
) -> None:
    (tmp_path / "list").write_text(text, encoding="utf-8", newline="")
    chosen = choose(ledger, Wanted(listed=tmp_path / "list"))
    assert ([row.no for row in chosen.rows], chosen.notes) == (expected, notes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "its first line is empty"),
        (b"sop_instance_uid\n", "no UID in it"),
        (b"name\nx.dcm\n", "line 1 holds no UID"),
        (b"sop_instance_uid\n1.2.3,\n=1+1\n", "line 3: sop_instance_uid holds no UID"),
        (b"a;study_instance_uid\n;\n;1,2E+20\n", "line 3: study_instance_uid was turned into a number"),
        (b"1.2.3\n\n1.2.3,1.2.4\n", "line 3 holds no UID"),
        (b"\0\0\0", "no table of text"),
        (b"9.9.9\n", "nothing was written"),
    ],
)
def test_a_wrong_list_is_refused(ledger: Ledger, tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "list").write_bytes(content)
    done = call("gallery", tmp_path / "run", "--list", tmp_path / "list")
    assert done.exit_code == 2, done.output
    assert message in done.output


def test_a_list_of_more_than_a_page_holds_is_refused(tmp_path: Path) -> None:
    ended_run(tmp_path / "run", 501).close()
    (tmp_path / "list").write_text("".join(f"1.2.3.{number}\n" for number in range(501)))
    done = call("gallery", tmp_path / "run", "--list", tmp_path / "list")
    assert done.exit_code == 2
    assert "501 images of this run are listed; a page holds 500: split the list" in done.output


def test_names_of_findings_and_flags_are_understood_in_any_case() -> None:
    assert find_label("pleural thickening") == "Pleural_Thickening"
    assert find_label("LUNG_OPACITY") == "Lung Opacity"
    assert find_flag("Looks-Inverted") == "looks_inverted"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "say which images: --finding, --flag, --sample or --list"),
        (["--sample", 3, "--list", __file__], "give one"),
        (["--sample", 3, "--top", 3], "--top goes with --finding or --flag"),
        (["--finding", "Mass", "--top", 501], "501"),
        (["--finding", "Mass", "--top", 0], "0"),
        (["--finding", "Flu"], "'Flu' is no finding of this model"),
        (["--flag", "odd"], "'odd' is no flag"),
        (["--flag", "signed"], "nothing was written"),
        (["--sample", 3, "--viewer", "javascript:alert({instance})"], "no address of a viewer"),
        (["--sample", 3, "--viewer", "https://x/{patient}"], "needs one of"),
        (["--sample", 3, "--viewer", "https://x/"], "needs one of"),
    ],
)
def test_wrong_uses_say_what_to_write(
    ledger: Ledger, tmp_path: Path, options: list[object], message: str
) -> None:
    done = call("gallery", tmp_path / "run", *options)
    assert done.exit_code == 2, done.output
    assert message in done.output
    assert not (tmp_path / "run" / "gallery.html").exists()


def test_a_finding_that_the_model_never_learnt_is_refused(tmp_path: Path) -> None:
    ledger = ended_run(tmp_path / "run", 4)
    job = ledger.get("job")
    job["model"] = "densenet121-res224-rsna"
    ledger.set("job", job)
    ledger.close()
    done = call("gallery", tmp_path / "run", "--finding", "Mass")
    assert done.exit_code == 2
    assert "was not trained on Mass" in done.output


def test_somebody_elses_file_is_not_replaced(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "own.html").write_text("somebody's")
    done = call("gallery", tmp_path / "run", "--sample", 3, "--to", tmp_path / "own.html")
    assert done.exit_code == 2
    assert (tmp_path / "own.html").read_text() == "somebody's"


# -- the page ------------------------------------------------------------------------------------------------


def jpeg(width: int, height: int) -> str:
    file = io.BytesIO()
    shade = np.linspace(0, 255, width * height).astype(np.uint8).reshape(height, width)
    Image.fromarray(shade).save(file, "JPEG")
    return base64.b64encode(file.getvalue()).decode()


def write(ledger: Ledger, path: Path, language: str = "en", **more: Any) -> Path:
    """A page of six images with names that are HTML, one of them without a picture."""
    chosen = choose(ledger, Wanted(finding="Pneumothorax", top=6))
    cells = np.zeros((len(LABELS), 7, 7), np.uint8)
    cells[:, 2, 4] = 255
    heat = base64.b64encode(cells.tobytes()).decode()
    shown = [
        Picture(row, jpeg(120, 80 + 20 * at), 120, 80 + 20 * at, "window", heat, 7)
        for at, row in enumerate(chosen.rows[:5])
    ]
    pictures = Pictures(shown, [(chosen.rows[5], "not_in_pacs")], more.pop("no_heat_maps", ""))
    names = {
        one.row.no: dict.fromkeys(("file_name", "accession_number", "patient_id"), HTML) for one in shown
    }
    about = About(ledger.get("job"), "densenet121-res224-all", Wanted(finding="Pneumothorax", top=6), (HTML,))
    link = ViewerLink.of(more.pop("viewer", ""), "https://me:secret@pacs.example:8042")
    write_gallery(OutputFile(path, private=True), about, pictures, names, link, language)
    return path


def test_the_page_is_its_owners_alone_and_says_what_it_holds(ledger: Ledger, tmp_path: Path) -> None:
    page = write(ledger, tmp_path / "g.html")
    text = page.read_text()
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert "This page holds patients' images" in text.replace("&#39;", "'")
    assert "<code>not_in_pacs</code>" in text
    assert "secret" not in text
    assert "SEEDED" not in text.partition("<script")[0]
    write(ledger, page)  # replaces its own kind


def test_the_page_speaks_portuguese_in_every_sentence(ledger: Ledger, tmp_path: Path) -> None:
    text = write(ledger, tmp_path / "g.html", "pt-BR").read_text()
    assert '<html lang="pt-BR">' in text
    assert "Salvar pareceres (CSV)" in text
    assert "Save verdicts" not in text
    assert "Highest scores" not in text


def test_findings_have_the_names_of_the_pages_language(ledger: Ledger, tmp_path: Path) -> None:
    for language, shown in (("en", "Pleural Thickening"), ("pt-BR", "Espessamento pleural")):
        text = write(ledger, tmp_path / f"{language}.html", language).read_text()
        data = json.loads(re.findall(r'id="data">(.*?)</script>', text, re.DOTALL)[0])
        assert data["findings"][LABELS.index("Pleural_Thickening")] == shown
        assert data["labels"] == list(LABELS)  # what the saved verdicts are called by
        assert f"Maiores escores de {data['findings'][PNEUMOTHORAX]}" in text or language == "en"


def test_seeded_weights_are_said_to_mean_nothing_everywhere(tmp_path: Path) -> None:
    ledger = ended_run(tmp_path / "run", 8, meaningful=False)
    text = write(ledger, tmp_path / "g.html").read_text().partition("<script")[0]
    ledger.close()
    assert text.count("SEEDED WEIGHTS: THE SCORES MEAN NOTHING") == 3  # head, picture, scores


def test_a_sites_operating_points_decide_what_is_present(ledger: Ledger, tmp_path: Path) -> None:
    """What a verdict agrees with is what the report says, so the page has to decide by the same points."""

    def points(page: Path) -> list[float]:
        found = re.search(
            r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL
        )
        assert found
        return list(json.loads(found[1])["points"])

    job = ledger.get("job")
    assert set(points(write(ledger, tmp_path / "own.html"))) == {0.5}
    thresholds = dict.fromkeys(LABELS, 0.25) | {"Pneumothorax": 0.75}
    ledger.set("job", job | {"operating_points": {"sha256": "ab" * 32, "thresholds": thresholds}})
    assert points(write(ledger, tmp_path / "sites.html")) == [thresholds[label] for label in LABELS]


def test_links_lead_into_the_viewer(ledger: Ledger) -> None:
    (row,) = choose(ledger, Wanted(finding="Mass", top=1)).rows
    template = "https://v/viewer?StudyInstanceUIDs={study_instance_uid}&i={instance}"
    link = ViewerLink.of(template, "/folder").to(row)
    assert link == f"https://v/viewer?StudyInstanceUIDs={row.study_instance_uid}&i={row.instance}"
    assert ViewerLink.of("", "/folder").to(row) == ""
    explorer = ViewerLink.of("", "http://10.0.0.1:8042", "https://pacs.example/").to(row)
    assert explorer == f"https://pacs.example/app/explorer.html#instance?uuid={row.instance}"


# -- in a browser --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    need("chromium")
    with Browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


def press(browser: Browser, *keys: str) -> None:
    for key in keys:
        browser.evaluate(f"document.dispatchEvent(new KeyboardEvent('keydown', {{key: {key!r}}}))")


@pytest.mark.slow
def test_nothing_in_a_header_becomes_markup_or_sends_a_request(
    browser: Browser, ledger: Ledger, tmp_path: Path
) -> None:
    page = write(ledger, tmp_path / "g.html")
    events = browser.open(page)
    press(browser, *["h", "ArrowRight", "ArrowDown"] * 6)
    browser.evaluate("fetch('https://example.org/').catch(() => 0)")  # the policy refuses it
    asked = [e["params"]["request"]["url"] for e in events if e.get("method") == "Network.requestWillBeSent"]
    assert {one for one in asked if not one.startswith("data:")} == {page.as_uri()}
    assert not [e for e in events if e.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown")]
    assert browser.evaluate("window.hacked") is None
    assert HTML in browser.evaluate("document.getElementById('facts').textContent")
    assert browser.evaluate("document.querySelectorAll('img').length") == 1
    assert browser.evaluate("document.getElementById('picture').naturalWidth") == 120


@pytest.mark.slow
def test_the_heat_map_lies_over_the_square_that_the_model_saw(
    browser: Browser, ledger: Ledger, tmp_path: Path
) -> None:
    browser.open(write(ledger, tmp_path / "g.html"))
    assert browser.evaluate("document.getElementById('square').hidden") is True
    press(browser, "h")
    place = (
        "(() => { const f = document.getElementById('frame').getBoundingClientRect(),"
        " s = document.getElementById('square').getBoundingClientRect();"
        " return [(s.left - f.left) / f.width, (s.top - f.top) / f.height, s.width / s.height] })()"
    )
    left, top, square = browser.evaluate(place)
    assert (left, top, square) == pytest.approx((20 / 120, 0, 1), abs=0.02)  # 120 × 80
    pixel = "[...document.getElementById('heat').getContext('2d').getImageData({x}, {y}, 1, 1).data]"
    assert browser.evaluate(pixel.format(x=4, y=2))[3] == 140  # 0.55 of 255, over the row 2, column 4
    assert browser.evaluate(pixel.format(x=2, y=4))[3] == 0
    browser.evaluate("document.getElementById('toggle').click()")
    frame = "document.getElementById('frame').dispatchEvent(new PointerEvent('{}', {{pointerType: 'mouse'}}))"
    assert browser.evaluate("document.getElementById('square').hidden") is True
    browser.evaluate(frame.format("pointerenter"))
    assert browser.evaluate("document.getElementById('square').hidden") is False
    browser.evaluate(frame.format("pointerleave"))
    assert browser.evaluate("document.getElementById('square').hidden") is True


@pytest.mark.slow
def test_a_finding_that_was_not_evaluated_has_no_heat_map(browser: Browser, tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path / "run")
    list_items(ledger, 8)
    harvest(ledger, lambda item: reported(item, [None, *some_scores(item)[1:]]))
    browser.open(write(ledger, tmp_path / "g.html"))
    press(browser, "h")
    drawn = "document.getElementById('heat').getContext('2d').getImageData(4, 2, 1, 1).data[3]"
    assert browser.evaluate(drawn) == 140
    browser.evaluate("document.querySelector('#findings [data-finding=\"0\"]').click()")
    assert browser.evaluate(drawn) == 0
    said = browser.evaluate("document.getElementById('under').textContent")
    assert said.endswith("Atelectasis: not evaluated by this model.")


@pytest.mark.slow
def test_verdicts_are_kept_saved_and_read_by_validate(
    browser: Browser, ledger: Ledger, tmp_path: Path
) -> None:
    page = write(ledger, tmp_path / "g.html")
    rows = choose(ledger, Wanted(finding="Pneumothorax", top=6)).rows[:5]
    browser.open(page)
    browser.evaluate("localStorage.clear()")
    browser.open(page)
    for verdict in (
        "ad",
        "d",
        "u",
        "aa",
        "d",
    ):  # the second key replaces the first; the same again takes it back
        press(browser, *verdict, "ArrowRight")
    press(browser, "ArrowDown", "a")
    browser.open(page)  # as after the browser was closed
    assert browser.evaluate("rows().length") == 5
    folder = tmp_path / "saved"
    folder.mkdir()
    browser.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    press(browser, "s")
    wait_until(lambda: [*folder.glob("*.csv")], 30, "the verdicts are saved")
    (saved,) = folder.glob("*.csv")
    lines = saved.read_bytes().decode().split("\r\n")
    assert saved.name == "verdicts-20260101000000-abcdef.csv"
    assert lines[0] == "sop_instance_uid,finding,present,verdict"
    said = [int(row.score_list[PNEUMOTHORAX] >= 0.5) for row in rows]  # type: ignore[operator]
    expected = [
        f"{row.sop_instance_uid},Pneumothorax,{present},{verdict}"
        for row, present, verdict in zip(
            rows, said, ("disagree", "disagree", "unsure", "", "disagree"), strict=True
        )
        if verdict
    ]
    assert [line for line in lines if ",Pneumothorax," in line] == expected
    assert len([line for line in lines if line.endswith(",agree")]) == 1
    done = call("validate", tmp_path / "run", "--labels", saved, "--uncertain", "ignore", "--blank", "ignore")
    assert "Joined    4 of 4 rows" in done.output, done.output
    found = json.loads((tmp_path / "run" / "validation" / "validation.json").read_text())["findings"]
    pneumothorax = next(one for one in found if one["label"] == "Pneumothorax")
    disagreed = [said[0], said[1], said[4]]
    assert (pneumothorax["positives"], pneumothorax["negatives"]) == (disagreed.count(0), disagreed.count(1))


@pytest.mark.slow
def test_a_phone_shows_all_without_scrolling_sideways(
    browser: Browser, ledger: Ledger, tmp_path: Path
) -> None:
    browser.open(write(ledger, tmp_path / "g.html", "pt-BR"))
    for width in (1280, 360):
        browser.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        assert browser.evaluate("document.getElementById('picture').getBoundingClientRect().width") > 250
    picture = browser.call("Page.captureScreenshot", format="png")["data"]
    (tmp_path / "phone.png").write_bytes(base64.b64decode(picture))
    browser.call("Emulation.clearDeviceMetricsOverride")
