"""What commands print and pages show in Portuguese holds no English sentence, whatever way its words have come."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from backlog.broker.messages import ItemRecord, Stage
from backlog.outcomes import Flag, Reason
from backlog.output_file import OutputFile
from producer.cli.main import main
from producer.gallery.images import Pictures
from producer.gallery.page import About, write_gallery
from producer.gallery.selection import Wanted, choose
from producer.ledger.ledger import Ledger
from producer.runner.entry_page import EntryPage
from producer.runner.runs import find_runs
from producer.viewer_link import ViewerLink
from tests.support.dicom_images import chest, dicom
from tests.support.ended_runs import (
    harvest,
    list_items,
    new_ledger,
    rejected,
    reported,
    some_scores,
)
from tests.support.english import english_in, english_on, only_english
from tests.support.servers import ROOT

COUNT = 120
PORTUGUESE = {"CXR_LANGUAGE": "pt-BR", "CXR_WEIGHTS": "seeded"}


def record(item: int) -> ItemRecord:
    """Every kind of end, with the details that workers write."""
    details = {
        3: rejected(Reason.LATERAL),
        4: rejected(Reason.UNDECODABLE, "the compressed image has another size than its header"),
        5: rejected(Reason.NOT_DICOM, "no DICM prefix", stage=Stage.UPLOAD),
        6: rejected(Reason.UNSUPPORTED_PIXELS, "a JPEG XL image with floating point"),
        7: rejected(Reason.DECODER_TIMEOUT, "decoding took longer than 60 s"),
    }
    flags = [flag.value for flag in Flag if "_" in flag.value] if item % 2 else []
    scores = [None, *some_scores(item)[1:]]  # not evaluated
    ended = details.get(item % 30) or reported(item, scores, flags=flags)
    return ended | {"sop_instance_uid": f"1.2.3.{item}", "study_instance_uid": f"1.2.{item // 2}"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, and tables that say nothing right away."""
    folder = tmp_path_factory.mktemp("runs")
    for name, meaningful in (("run", True), ("outra", False)):
        ledger = new_ledger(folder / name, meaningful=meaningful)
        list_items(ledger, COUNT)
        harvest(ledger, record)
        ledger.set("job", ledger.get("job") | {"model": "densenet121-res224-nih"})
        ledger.close()
    rows = [f"1.2.3.{n},{n % 2},{int(n < 3)},{n % 2},Effusion|Mass,{'AB'[n % 2]}" for n in range(COUNT)]
    texts = {
        "labels.csv": "sop_instance_uid,Effusion,Mass,Fracture,findings,site\n"
        + "\n".join([*rows, "7.7,1,0,0,,A"]),
        "old.csv": "sop_instance_uid;Effusion;Observação\n"
        + "\n".join(f"1.2.3.{n};{n % 2};x" for n in range(COUNT)),
        "joined.csv": "sop_instance_uid,Finding Labels\n"
        + "\n".join(f"1.2.3.{n},{'Effusion|Scoliosis' if n % 2 else 'No Finding'}" for n in range(COUNT)),
        "readers.csv": "sop_instance_uid,reader,Effusion\n"
        + "\n".join(f"1.2.3.{n // 2},R{n % 2},{n % 3 % 2}" for n in range(COUNT)),
        "verdicts.csv": "sop_instance_uid,finding,present,verdict,site\n"
        + "\n".join(f"1.2.3.{n},Effusion,{n % 2},{('agree', 'disagree')[n % 3 % 2]},A" for n in range(COUNT)),
        "uncertain.csv": "sop_instance_uid,Effusion,Mass\n1.2.3.1,-1,\n1.2.3.2,1,0\n",
        "twice.csv": "sop_instance_uid,Effusion\n1.2.3.1,1\n\n1.2.3.1,0\n",
        "other.csv": "sop_instance_uid,Effusion\n9.9.9,1\n",
        "groups.csv": "study_instance_uid;group\n1.2.1;Hospital São José\n",
        "none.csv": "study_instance_uid;group\n9.9.9;A\n",
        "list.csv": "sop_instance_uid\n1.2.3.1\n9.9.9\n",
        "empty.csv": "\n",
    }
    for name, text in texts.items():
        (folder / name).write_bytes(text.encode("cp1252"))
    (folder / "vazia").mkdir()
    (folder / "archive").mkdir()
    (folder / "archive" / "a.dcm").write_bytes(dicom(chest(64, 64)))
    (folder / "archive" / "b.txt").write_text("a document")
    return folder


COMMANDS = (
    *("status run", "status outra", "items run", "quarantine run", "quarantine show run 4", "runs ."),
    *("validate run --labels labels.csv --propose ppv=0.99 --by site", "validate run --labels old.csv"),
    *("validate run --labels joined.csv --propose youden", "validate run --labels readers.csv"),
    *("validate run --labels readers.csv --readers majority", "validate run --labels verdicts.csv --by site"),
    *("validate run --labels uncertain.csv", "validate run --labels uncertain.csv --uncertain positive"),
    *(
        "validate run --labels twice.csv",
        "validate run --labels other.csv",
        "validate run --labels empty.csv",
    ),
    *("validate outra --labels labels.csv --to elsewhere", "validate run --labels labels.csv --propose best"),
    *("compare outra run", "compare outra run --labels labels.csv", "compare run vazia"),
    *("summary run", "summary run --baseline outra", "summary run --baseline outra --groups groups.csv"),
    *("summary run --baseline outra --groups none.csv", "summary run --baseline outra --groups list.csv"),
    *("export run", "export outra --excel", "export run --to /sys/x", "export run --to labels.csv"),
    *("gallery run", "gallery run --list empty.csv --finding Flu", "gallery run --finding Fracture"),
    *("plan archive", "plan vazia", "plan archive --only list.csv", "plan archive --only empty.csv"),
    *("audit verify run", "inspect archive/a.dcm --no-scores", "inspect archive/b.txt --no-scores"),
    *("resume run", "cancel run", "verify vazia", "fly"),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_says_a_word_of_english(
    folder: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(main, command.split(), env=PORTUGUESE)
    assert done.exit_code in (0, 2, 3), done.output
    assert not english_in(done.output.replace("a coluna findings", "")), command


def test_pages_show_no_english_words(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for command in (
        "validate run --labels old.csv --propose ppv=0.99 --to old",
        "validate run --labels labels.csv --by site --propose ppv=0.99",
        "validate outra --labels verdicts.csv --to verdicts",
        "compare outra run",
        "summary outra --baseline run --groups groups.csv",
        "summary run --baseline outra --groups none.csv",
    ):
        assert CliRunner().invoke(main, command.split(), env=PORTUGUESE).exit_code in (0, 3), command
    ledger = Ledger(folder / "run" / "ledger.sqlite", write=False)
    wanted = Wanted(finding="Effusion", top=3)
    rows = choose(ledger, wanted).rows
    about = About(
        ledger.get("job"), "densenet121-res224-all", wanted, ("1 of 2 listed have no report in this run",)
    )
    pictures = Pictures(
        [], [(rows[0], "not_in_pacs")], "the weights here are not those that scored: see CXR_WEIGHTS"
    )
    link = ViewerLink.of("", "https://pacs.example")
    write_gallery(OutputFile(folder / "gallery.html", private=True), about, pictures, None, link, "pt-BR")
    ledger.close()
    EntryPage(folder, "pt-BR").show(list(find_runs(folder)))
    pages = [*folder.rglob("*.html")]
    assert len(pages) > 7
    for page in pages:
        text = page.read_text(encoding="utf-8").replace("a coluna findings", "")
        assert not english_on(text), page.name


def test_the_words_of_english_are_known() -> None:
    """The tests above say nothing where this one fails."""
    assert {
        "the",
        "and",
        "image",
        "images",
        "table",
        "read",
        "uncertain",
        "such",
        "headers",
    } - only_english() == {"image"}
    assert english_in("Rótulos   the table was read: /tmp/the/table.csv --table") == [
        f"{word}: Rótulos   the table was read: /tmp/the/table.csv --table"
        for word in ("read", "table", "the", "was")
    ]
    assert english_on("<p title='não'>sim</p><td>no such image</td>") == ["such: no such image"]


#: Of templates, what is the same in every language: names of files, commands and values.
SAME = (
    "cxr-backlog",
    "OUT",
    "PSI",
    "KS",
    "AUC",
    "UTC",
    "SOP Instance UID",
    "Study Instance UID",
    "only-account.csv",
)


@pytest.mark.parametrize("path", sorted((ROOT / "producer").rglob("*.j2")), ids=lambda path: path.name)
def test_a_template_has_no_words_of_its_own(path: Path) -> None:
    text = re.sub(r"<style>.*?</style>|\{#.*?#\}|<code>.*?</code>", "", path.read_text(), flags=re.DOTALL)
    text = re.sub(r"\{%.*?%\}|\{\{.*?\}\}", " ", text, flags=re.DOTALL)
    shown = [*re.findall(r'(?:aria-label|title|alt)="([^"]*)"', text), re.sub(r"<[^>]*>", "\n", text)]
    words = "\n".join(shown)
    for one in SAME:
        words = words.replace(one, "")
    assert not re.findall("[A-Za-z]{2,}", words)


def test_what_click_shows_is_translated() -> None:
    """A question or the name of a progress bar goes past `echo`."""
    past = []
    for path in sorted((ROOT / "producer").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and ast.unparse(node.func).startswith("click.")):
                continue
            called = ast.unparse(node.func).removeprefix("click.")
            shown = node.args[:1] if called in ("confirm", "prompt", "secho", "pause") else []
            shown += [
                one.value for one in node.keywords if one.arg in ("label", "prompt") and called != "option"
            ]
            for one in shown:
                parts = one.values if isinstance(one, ast.JoinedStr) else [one]
                words = [str(part.value) for part in parts if isinstance(part, ast.Constant)]
                past += [(path.name, word) for word in words if re.search("[A-Za-z]{2}", word)]
    assert not past
