"""The summary page: right, self-contained, escaped, and good on screen, on paper and for a screen reader."""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from backlog.broker.messages import TASKS, ItemRecord, Stage
from backlog.errors import UsageError
from backlog.model import LABELS
from backlog.outcomes import Flag, Reason
from backlog.settings import Settings
from producer.cli.main import main
from producer.execution import ending
from producer.ledger import schema
from producer.ledger.ledger import Ledger
from producer.page.page import write_page
from producer.page.statistics import MAX_ITEMS, gather, wilson
from producer.page.words import words_of
from producer.results.audit_chain import AuditResult, Link
from producer.results.audit_log import Audit
from producer.results.meanings import MEANINGS
from producer.run.folder import Paths
from producer.run.signals import StopRequest
from tests.conftest import need
from tests.support.browser import Browser
from tests.support.ended_runs import (
    START,
    ended_run,
    harvest,
    list_items,
    new_ledger,
    rejected,
    reported,
    some_scores,
)
from tests.support.servers import ROOT

HOSTILE = "\"><script>alert(1)</script>&'</table>"


def record(item: int) -> ItemRecord:
    """Every kind of end: reported, skipped, quarantined, with flags, and with text that attacks the page."""
    if item % 10 == 3:
        return rejected(Reason.LATERAL)
    if item % 10 == 4:
        return rejected(Reason.UNDECODABLE, HOSTILE, instance=f"{item:08x}-0-0-0-0", sop_instance_uid=HOSTILE)
    if item % 10 == 5:
        return rejected(Reason.NOT_DICOM, "no DICM prefix", stage=Stage.UPLOAD)
    flags = [Flag.VIEW_UNKNOWN.value] if item % 2 else [Flag.SIGNED.value, Flag.VIEW_UNKNOWN.value]
    return reported(item, some_scores(item), flags=flags)


def mixed_run(folder: Path, count: int = 400, **facts: object) -> Ledger:
    ledger = new_ledger(folder, **facts)
    list_items(ledger, count)
    harvest(ledger, record)
    return ledger


class Outline(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.words = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        given = dict(attrs)
        self.ids += [given["id"] or ""] if "id" in given else []
        self.links += [given["href"] or ""] if tag == "a" else []
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words += f" {data.strip()}" if data.strip() else ""


def outline(path: Path) -> Outline:
    return Outline(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One page with everything on it, drift included."""
    folder = tmp_path_factory.mktemp("page")
    before = ended_run(folder / "before", 300, seed=5)
    ledger = mixed_run(folder / "now", 400, pacs="http://me:secret@pacs:8042/")
    path = folder / "summary.html"
    write_page(ledger, path, baseline=before, audit=AuditResult(Link(280, "cd" * 32)))
    return path


def test_it_gives_the_account_of_all_inputs(page: Path) -> None:
    words = outline(page).words
    assert "400 = 280 reported + 40 skipped + 80 quarantined." in words
    for said in (
        "lateral",
        "undecodable: 40",
        "not_dicom: 40",
        "view_unknown",
        "280 lines, head " + "cd" * 32,
    ):
        assert said in words
    for said in ("densenet121-res224-all", "ab" * 32, "onnxruntime", "Research use only"):
        assert said in words
    for label in LABELS:
        assert label.replace("_", " ") in words


def test_nothing_that_stands_in_a_record_becomes_markup(page: Path) -> None:
    text = page.read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert outline(page).tags["script"] == 0


def test_it_is_self_contained_and_tells_no_password(page: Path) -> None:
    text = page.read_text()
    assert "secret" not in text
    assert "default-src 'none'" in text
    found = set(re.findall(r'(?:src|href|action|data)="([a-z]+:[^"]*)"', text))
    assert all(link.startswith("http://pacs:8042/app/explorer.html#instance?uuid=") for link in found)
    assert "@import" not in text
    assert "url(http" not in text


def test_quarantined_items_and_studies_lead_to_orthanc(page: Path) -> None:
    links = [link for link in outline(page).links if link.startswith("http")]
    assert "http://pacs:8042/app/explorer.html#instance?uuid=00000004-0-0-0-0" in links
    assert (
        "http://pacs:8042/app/explorer.html#instance?uuid=00000000-11111111-00000000-00000000-00000000"
        in links
    )


def test_a_folders_page_has_no_links_and_a_pacs_page_given_ones(tmp_path: Path) -> None:
    path = tmp_path / "summary.html"
    folder = mixed_run(tmp_path / "a", 20)
    write_page(folder, path, orthanc="http://somewhere")
    assert not [link for link in outline(path).links if not link.startswith("#")]
    server = mixed_run(tmp_path / "b", 20, pacs="http://orthanc:8042")
    write_page(server, path, orthanc="https://pacs.example/orthanc/")
    assert "https://pacs.example/orthanc/app/explorer.html#instance" in path.read_text()
    with pytest.raises(UsageError, match="no address"):
        write_page(server, path, orthanc="javascript:alert(1)")


def test_studies_and_items_lead_into_the_viewer(tmp_path: Path) -> None:
    path = tmp_path / "summary.html"
    ledger = mixed_run(tmp_path / "a", 20)
    write_page(ledger, path, viewer="https://v/viewer?StudyInstanceUIDs={study_instance_uid}")
    links = [link for link in outline(path).links if not link.startswith("#")]
    assert links == [
        f"https://v/viewer?StudyInstanceUIDs=1.2.{number}" for number in (0, 1, 3, 4, 5, 6, 8, 9)
    ]
    assert "A link opens the study in the viewer." in outline(path).words
    with pytest.raises(UsageError, match="no address of a viewer"):
        write_page(ledger, path, viewer="javascript:alert({instance})")
    with pytest.raises(UsageError, match="needs one of"):
        write_page(ledger, path, viewer="https://v/{patient_id}")


def test_files_of_the_run_are_linked_where_they_are(tmp_path: Path) -> None:
    ledger = ended_run(tmp_path, 4)
    ledger.close()
    there = ["scores.csv", "gallery.html", "validation/validation.html", "comparison/comparison.html"]
    for name in (*there, "private.txt", "validation/unjoined.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert CliRunner().invoke(main, ["summary", str(tmp_path)]).exit_code == 0
    links = [link for link in outline(tmp_path / "summary.html").links if not link.startswith("#")]
    assert links == there
    elsewhere = tmp_path / "other.d"
    elsewhere.mkdir()
    assert (
        CliRunner().invoke(main, ["summary", str(tmp_path), "--to", str(elsewhere / "x.html")]).exit_code == 0
    )
    assert not [link for link in outline(elsewhere / "x.html").links if not link.startswith("#")]


@pytest.fixture(scope="module")
def portuguese(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same page in Portuguese."""
    folder = tmp_path_factory.mktemp("portuguese")
    before = ended_run(folder / "before", 300, seed=5)
    ledger = mixed_run(folder / "now", 400, pacs="http://pacs:8042", meaningful=False)
    path = folder / "summary.html"
    audit = AuditResult(Link(280, "cd" * 32))
    write_page(ledger, path, baseline=before, audit=audit, beside=folder, language="pt-BR")
    return path


def test_the_page_speaks_portuguese(portuguese: Path) -> None:
    text, words = portuguese.read_text(), outline(portuguese).words
    assert '<html lang="pt-BR">' in text
    for said in (
        "400 = 280 relatados + 40 ignorados + 80 em quarentena.",
        "PESOS DE TESTE: OS ESCORES NÃO SIGNIFICAM NADA",
        "Derrame pleural",
        "280 linhas",
        "sem incidência declarada",
    ):
        assert said in words
    assert re.search(r"\d,\d–\d+,\d %", words)
    assert not re.search(r"\b(the|and|images|reported|skipped|median|within|items|chunks)\b", words)


def test_every_stage_and_effect_has_its_words() -> None:
    effects = {
        value
        for name, value in vars(schema).items()
        if name.isupper() and re.fullmatch(r"[a-z_]+\.[a-z_]+", str(value))
    }
    assert "labels.put" in effects
    assert {*TASKS.values(), *(f"effect_{kind}" for kind in effects)} <= words_of("en").phrases.keys()


def test_both_languages_say_the_same_with_the_same_values() -> None:
    english, other = words_of("en").phrases, words_of("pt-BR").phrases
    assert english.keys() == other.keys()
    for key, phrase in english.items():
        assert other[key].strip(), key
        assert sorted(re.findall(r"\{\w+\}", phrase)) == sorted(re.findall(r"\{\w+\}", other[key])), key
    rows = csv.DictReader(
        (ROOT / "worker/sr/codes.tsv").read_text().splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE
    )
    named = {row["key"]: row["portuguese"] for row in rows if row["role"] == "finding"}
    assert {label: words_of("pt-BR").finding(label) for label in LABELS} == named  # as the reports name them


def test_every_chart_has_a_text_and_a_table_and_ids_are_unique(page: Path) -> None:
    text, found = page.read_text(), outline(page)
    bars = text.count('aria-hidden="true"><svg')  # beside the numbers that they show
    assert bars == len(LABELS)
    assert text.count('role="img"') == found.tags["svg"] - bars == 4
    assert found.tags["details"] == found.tags["figure"] == 4
    assert not [name for name, count in Counter(found.ids).items() if count > 1]
    labelled = set(re.findall(r'aria-labelledby="([^"]+)"', text))
    assert labelled <= set(found.ids)
    assert found.tags["caption"] == found.tags["table"]


def test_findings_are_counted_at_the_operating_points(tmp_path: Path) -> None:
    def scores(item: int) -> list[float]:
        return [0.5 if item < 3 else 0.49, *[0.3 if item < 6 else 0.2] * (len(LABELS) - 1)]

    path = tmp_path / "summary.html"
    ledger = new_ledger(tmp_path / "run")
    list_items(ledger, 40)
    harvest(ledger, lambda item: reported(item, scores(item)))
    found = write_page(ledger, path)
    assert [(one.images, one.present) for one in found.prevalence] == [(40, 3), *[(40, 0)] * 17]
    words = outline(path).words
    assert "Atelectasis 3 / 40 7.5 % 2.6–19.9 %" in words
    assert "Effusion 0 / 40 0.0 % 0.0–8.8 %" in words
    assert "At least one finding in 3 of 40 images (7.5 %)" in words
    assert "a score of 0.5" in words
    points = {"sha256": "cd" * 32, "thresholds": {"Effusion": 0.3}}
    ledger.set("job", ledger.get("job") | {"operating_points": points})
    write_page(ledger, path)
    words = outline(path).words
    assert "Effusion 6 / 40 15.0 % 7.1–29.1 % 0.300" in words
    assert "At least one finding in 6 of 40 images" in words
    assert "operating points of the file cdcdcdcdcdcdcdcd on" in words


@pytest.mark.parametrize(("count", "of"), [(0, 1), (1, 1), (3, 40), (500_000, 1_000_000), (1, 1_000_000)])
def test_the_interval_is_wilsons(count: int, of: int) -> None:
    from scipy.stats import binomtest  # not where each process collects the tests: half a second

    oracle = binomtest(count, of).proportion_ci(method="wilson")
    assert wilson(count, of) == pytest.approx((oracle.low, oracle.high), abs=1e-12)
    assert wilson(0, 0) == (0.0, 1.0)


def test_a_label_that_was_not_evaluated_has_no_share(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path / "run")
    list_items(ledger, 4)
    harvest(ledger, lambda item: reported(item, [None, *some_scores(item)[1:]]))
    write_page(ledger, tmp_path / "summary.html")
    assert "Atelectasis not evaluated" in outline(tmp_path / "summary.html").words


def test_only_seeded_weights_are_said_to_mean_nothing(tmp_path: Path, page: Path) -> None:
    path = tmp_path / "summary.html"
    write_page(mixed_run(tmp_path / "seeded", 40, meaningful=False), path)
    words = outline(path).words
    assert "SEEDED WEIGHTS: THE SCORES MEAN NOTHING" in words
    assert "these distributions mean nothing" in words
    assert "these shares mean nothing" in words
    assert "MEAN NOTHING" not in outline(page).words


def test_drift_is_a_sentence_and_other_weights_are_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "summary.html"
    before, now = ended_run(tmp_path / "a", 400), ended_run(tmp_path / "b", 400, seed=1, shift=0.3)
    write_page(now, path, baseline=before)
    words = outline(path).words
    assert "The runs part in 1 findings: Atelectasis." in words
    assert "different weights" not in words
    job = before.get("job")
    before.set("job", job | {"weights": "ef" * 32})
    write_page(now, path, baseline=before)
    assert "different weights" in outline(path).words


def test_a_run_that_has_not_begun_or_not_ended_has_a_page_too(tmp_path: Path) -> None:
    path = tmp_path / "summary.html"
    ledger = new_ledger(tmp_path / "run")
    write_page(ledger, path)
    assert "Not complete" in outline(path).words
    assert "No image is reported yet" in outline(path).words
    list_items(ledger, 64)
    harvest(ledger, record, chunks=2)
    found = write_page(ledger, path)
    assert found.throughput is not None
    assert sum(found.throughput.reported) + sum(found.throughput.others) == 32
    assert "+ 32 not ended yet" in outline(path).words


def test_a_run_of_nothing_but_system_files_has_a_page(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path / "run")
    list_items(ledger, 3)
    harvest(ledger, lambda _: rejected(Reason.SYSTEM_FILE, stage=Stage.UPLOAD))
    write_page(ledger, tmp_path / "summary.html")
    assert "3 = 0 reported + 3 skipped + 0 quarantined" in outline(tmp_path / "summary.html").words


def test_the_lists_are_bounded_and_say_so(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path / "run")
    list_items(ledger, 1000)
    harvest(ledger, lambda item: rejected(Reason.BLANK) if item < 500 else reported(item, some_scores(item)))
    found = write_page(ledger, tmp_path / "summary.html")
    assert len(found.quarantined["blank"]) == MAX_ITEMS
    words = outline(tmp_path / "summary.html").words
    assert "blank: 500" in words
    assert "The first 50 quarantined as blank" in words
    assert "Reports lie in 250 studies. The first 100 are listed" in words


def test_times_are_those_of_the_stages_not_of_the_harvest(tmp_path: Path) -> None:
    found = gather(mixed_run(tmp_path, 160))
    assert found.throughput is not None
    assert found.throughput.start == START + 1  # ten chunks, a second apart
    assert (found.throughput.width, len(found.throughput.reported)) == (1, 10)
    infer = next(one for one in found.latency if one.stage == "infer")
    assert (infer.chunks, infer.images, infer.repeated) == (10, 160, 1)
    assert infer.quantiles == {"median": 130, "90 %": 130, "99 %": 130, "most": 130}
    assert sum(infer.counts) == 10
    assert found.attempts == {1: 160}


def test_every_flag_has_a_meaning_for_the_reader() -> None:
    meant = {key.removeprefix("flag_") for key in words_of("en").phrases if key.startswith("flag_")}
    assert meant == {flag.value for flag in Flag}


@pytest.mark.parametrize("module", ["jinja2", "producer.page.charts"])
def test_without_its_libraries_no_page_is_written_and_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    ledger = ended_run(tmp_path, 4)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delattr("producer.page.charts", raising=False)
    said: list[str] = []
    paths = Paths(tmp_path)
    with Audit(ledger, tmp_path / "audit.jsonl") as audit:
        ending.write_page(ledger, paths, audit, said.append, Settings(), ending.GiveUp(StopRequest(), paths))
    (line,) = said
    assert line.startswith("No summary page: it needs jinja2 and matplotlib: install cxr-backlog[page]")
    assert not Paths(tmp_path).page.exists()


def test_the_command_writes_it_again_and_compares(tmp_path: Path) -> None:
    ended_run(tmp_path / "a", 300).close()
    ended_run(tmp_path / "b", 300, seed=1).close()
    out, before = str(tmp_path / "b"), str(tmp_path / "a")
    done = CliRunner().invoke(main, ["summary", out, "--baseline", before, "--to", str(tmp_path / "x.html")])
    assert done.exit_code == 0, done.output
    assert "No sign of drift in any of the 18 findings." in done.output
    assert (tmp_path / "x.html").exists()
    assert CliRunner().invoke(main, ["summary", out, "--groups", "x.csv"]).exit_code == 2
    assert CliRunner().invoke(main, ["summary", str(tmp_path)]).exit_code == 2


def test_a_damaged_audit_is_told_and_the_page_names_no_head(tmp_path: Path) -> None:
    ledger = ended_run(tmp_path, 4)
    with Audit(ledger, Paths(tmp_path).audit) as audit:
        audit.catch_up()
        head = audit.head.hash
    ledger.close()
    lines = Paths(tmp_path).audit.read_bytes().splitlines(keepends=True)
    Paths(tmp_path).audit.write_bytes(
        b"".join([*lines[:2], lines[2].replace(b"report.stored", b"report.found"), *lines[3:]])
    )
    done = CliRunner().invoke(main, ["summary", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "the audit's line 3" in done.output
    assert "cxr-backlog audit verify" in done.output
    page = Paths(tmp_path).page.read_text(encoding="utf-8")
    assert head not in page
    assert "damaged at line 3" in page


# -- in a browser --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    need("chromium")
    with Browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.mark.slow
def test_a_browser_finds_nothing_wrong_and_asks_for_nothing_else(browser: Browser, page: Path) -> None:
    events = browser.open(page)
    asked = [e["params"]["request"]["url"] for e in events if e.get("method") == "Network.requestWillBeSent"]
    assert asked == [page.as_uri()]
    assert not [e for e in events if e.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown")]
    assert browser.evaluate("document.compatMode") == "CSS1Compat"
    assert browser.evaluate("document.querySelectorAll('parsererror').length") == 0
    # Nothing sticks out at the side, on a wide screen or a narrow one.
    for width in (1280, 400):
        browser.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
    browser.call("Emulation.clearDeviceMetricsOverride")


@pytest.mark.slow
def test_a_screen_reader_meets_headings_and_named_charts(browser: Browser, page: Path) -> None:
    browser.open(page)
    tree = browser.tree()
    names: dict[str, list[str]] = {}
    for role, name in tree:
        names.setdefault(role, []).append(name)
    images = [name for role in ("image", "img") for name in names.get(role, [])]
    assert len(images) == 4
    assert all(len(name) > 40 for name in images)
    assert {
        "Account of all inputs",
        "Score drift",
        "What was found",
        "Quarantine",
        "Scores",
        "Flags",
        "Speed",
        "Studies",
    } <= set(names["heading"])
    assert {"main", "navigation", "banner"} <= set(names)
    assert all(names["table"])
    assert all(names["link"])


@pytest.mark.slow
def test_contrast_of_all_text_is_enough(browser: Browser, page: Path) -> None:
    """WCAG 2.2, 1.4.3: at least 4.5 to 1, on the white that everything stands on."""
    browser.open(page)
    colours = browser.evaluate(
        "[...new Set([...document.querySelectorAll('body *:not(svg *)')].filter(e => e.innerText)"
        ".map(e => getComputedStyle(e).color))]"
    )
    assert colours
    for colour in colours:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        light = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        luminance = 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2]
        assert 1.05 / (luminance + 0.05) >= 4.5, colour


@pytest.mark.slow
def test_paper_has_whole_charts_and_no_parts_for_screens(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.call("Emulation.setEmulatedMedia", media="print")
    hidden = "getComputedStyle(document.querySelector('{}')).display === 'none'"
    assert browser.evaluate(hidden.format("nav"))
    assert browser.evaluate(hidden.format("details"))
    assert browser.evaluate("getComputedStyle(document.querySelector('figure')).breakInside") == "avoid"
    browser.call("Emulation.setEmulatedMedia", media="")
    printed = browser.pdf()
    assert printed.startswith(b"%PDF")
    assert 4 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 30


def test_every_reason_is_explained() -> None:
    assert {reason.value for reason in Reason} == set(MEANINGS)
