"""Every message in Portuguese too: complete, unambiguous, and reached from every command."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from backlog.environment import interface_language
from producer import translation
from producer.cli.main import main
from producer.translation import FOLDER, PLACEHOLDER, Catalogue, catalogue
from tests.support.dicom_images import chest, dicom
from tests.support.ended_runs import ended_run
from tests.support.messages import messages
from tests.support.servers import ROOT

LANGUAGE = "pt-BR"


@pytest.fixture(autouse=True)
def _english_again() -> Iterator[None]:
    yield
    translation.use("en")


def test_the_source_has_the_messages_that_it_is_known_to_have() -> None:
    """The next tests say nothing where this one fails."""
    found = messages()
    assert len(found) > 400
    for message in (
        "Say what a run would do. Writes nothing.",
        "{out}: no run here (a run's folder holds ledger.sqlite)",
        "no worker takes from the queue {queues}; start one: docker compose up -d {services},"
        " or python -m worker --queues {bases} --processes 1 --name {stages}",
        "Every report of this run is in the PACS, as it was stored.",
        "{path}: this is no zip archive",
        "no such image in this run",  # an argument of get()
        "{path}: this zip holds no files",  # of a function that warns later
        "it said nothing",  # a value of another message
        "Headers",
    ):
        assert message in found


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.po")), ids=lambda path: path.stem)
def test_a_catalogue_is_complete(path: Path) -> None:
    """After a message was changed: ``python -m tests.support.messages``, then translate what is empty."""
    known = catalogue(path.stem.replace("_", "-")).plain
    assert not [message for message in messages() if message not in known]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.po")), ids=lambda path: path.stem)
def test_a_translation_holds_the_same_values(path: Path) -> None:
    for source, target in catalogue(path.stem.replace("_", "-")).plain.items():
        assert sorted(PLACEHOLDER.findall(source)) == sorted(PLACEHOLDER.findall(target)), source


def test_a_finished_message_finds_its_own_translation() -> None:
    """Each template is filled in; another that took the text for its own would show."""
    known = catalogue(LANGUAGE)
    wrong = []
    for template in known.templates:
        values = {name: f"<{name}>" for name in PLACEHOLDER.findall(template.source)}
        finished, meant = template.source.format(**values), template.target.format(**values)
        if known.message(finished) != meant:
            wrong.append((finished, known.message(finished)))
    assert not wrong


def test_no_command_prints_words_past_the_catalogue() -> None:
    """``click.echo`` is for what is translated already, for tables and for JSON."""
    past = []
    for path in sorted((ROOT / "producer" / "cli").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "click.echo" and node.args:
                first = node.args[0]
                parts = first.values if isinstance(first, ast.JoinedStr) else [first]
                words = [str(one.value) for one in parts if isinstance(one, ast.Constant)]
                past += [(path.name, word) for word in words if re.search("[A-Za-z]{2}", word)]
    assert [one for one in past if one[1] not in ("cxr-backlog: ", "comparison.html")] == []


def test_a_message_in_a_message_is_translated() -> None:
    known = Catalogue.of([("{a}: is gone", "{a}: sumiu"), ("waiting: {b}", "espera: {b}"), ("never", "")])
    assert known.message("waiting: /a: b: is gone") == "espera: /a: b: sumiu"
    assert known.message("never") == "never"
    assert known.message("another {thing}") == "another {thing}"
    assert known.message("waiting: ") == "espera: "


def test_no_message_can_rewrite_a_terminal() -> None:
    """What a worker, a server or a file's name brings into a message reaches every terminal through here."""
    said = "Chunk 1 was scored with other weights (\x1b[2J\x9b1m\x07…)\r\n\tsee\u00a0CXR_WEIGHTS"
    for language in ("en", LANGUAGE):
        translation.use(language)
        assert translation.translated(said) == (
            "Chunk 1 was scored with other weights (?[2J?1m?…)?\n\tsee\u00a0CXR_WEIGHTS"
        )


def test_people_read_decimals_in_their_own_language() -> None:
    for language, expected in (("en", "72.20 -0.5 1,234.5"), (LANGUAGE, "72,20 -0,5 1.234,5")):
        translation.use(language)
        read = [
            translation.decimal(72.2, 2),
            translation.decimal(-0.5, 1),
            translation.decimal(1234.5, 1, ","),
        ]
        assert " ".join(read) == expected


@pytest.mark.parametrize("command", ["status", "plan"])
def test_a_commands_decimals_are_the_languages(tmp_path: Path, command: str) -> None:
    (tmp_path / "a.dcm").write_bytes(dicom(chest(64, 64)))
    ended_run(tmp_path / "out").close()
    words = ["status", str(tmp_path / "out")] if command == "status" else ["plan", str(tmp_path)]
    point = re.compile(r"\d\.\d+ (s|MB|GB|imagens/s)\b")
    said = CliRunner().invoke(main, words, env={"CXR_LANGUAGE": LANGUAGE}).output
    assert re.search(r"\d,\d+ (s|MB)\b", said), said
    assert not point.search(said), said
    assert point.search(CliRunner().invoke(main, words, env={"CXR_LANGUAGE": "en"}).output)


def test_no_name_is_shown_in_another_order_than_it_has() -> None:
    for mark in "\u202a\u202e\u2066\u2069\u200e\u200f\u061c":
        assert translation.translated(f"gnp{mark}.exe: no such file") == "gnp?.exe: no such file"
    assert translation.translated("\u05e9\u05dc.dcm: no") == "\u05e9\u05dc.dcm: no"


def test_a_name_with_a_line_feed_makes_no_line_of_its_own() -> None:
    done = CliRunner().invoke(main, ["status", "x\ncxr-backlog: all is well"])
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({}, "en"),
        ({"LANG": "pt_BR.UTF-8"}, "pt-BR"),
        ({"LANG": "pt"}, "pt-BR"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "pt_BR.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "C", "LC_MESSAGES": "pt_BR.UTF-8"}, "pt-BR"),
        ({"LANG": "pt_BR.UTF-8", "CXR_LANGUAGE": "en"}, "en"),
        ({"LANG": "C", "CXR_LANGUAGE": "pt-BR"}, "pt-BR"),
        ({"LANG": "pt_BR.UTF-8", "CXR_LANGUAGE": ""}, "pt-BR"),
    ],
)
def test_the_language_is_the_settings_or_the_locales(environment: dict[str, str], language: str) -> None:
    assert interface_language(environment) == language


@pytest.mark.parametrize("environment", [{"LANG": "pt_BR.UTF-8", "LC_ALL": ""}, {"CXR_LANGUAGE": "pt-BR"}])
def test_commands_speak_portuguese(tmp_path: Path, environment: dict[str, str]) -> None:
    ended_run(tmp_path / "out", meaningful=False).close()

    def said(*words: str) -> str:
        return (
            CliRunner().invoke(main, list(words), env={"LC_ALL": "", "LC_MESSAGES": ""} | environment).output
        )

    assert "Execução    20260101000000-abcdef (completa)" in said("status", str(tmp_path / "out"))
    assert "40 itens listados" in said("items", str(tmp_path / "out"))
    assert "não há execução aqui" in said("status", str(tmp_path))
    assert "Falta o argumento 'OUT'." in said("status")
    assert "Não existe o comando 'fly'." in said("fly")
    text = said("status", "--help")
    assert "Uso:" in text
    assert "Diz em que ponto está uma execução." in text
    assert "Opções:" in text
    assert not re.search(r"Usage:|Options:|Show this", text)
    assert (
        "Usage:"
        in CliRunner().invoke(main, ["status", "--help"], env={"LC_ALL": "C", "CXR_LANGUAGE": ""}).output
    )


def test_plan_and_inspect_speak_portuguese(tmp_path: Path) -> None:
    """All that they say besides the keywords of headers, reasons and flags, which are the same in every language."""
    (tmp_path / "archive").mkdir()
    path = tmp_path / "archive" / "3 of 5 read.dcm"
    path.write_bytes(dicom(chest(64, 64), ViewPosition=""))
    (tmp_path / "archive" / "none.txt").write_text("a document")
    environment = {"CXR_LANGUAGE": "pt-BR", "CXR_WEIGHTS": "seeded"}
    said = CliRunner().invoke(main, ["plan", str(path.parent), "--names"], env=environment).output
    assert "de 1 lidos, sinalizados view_unknown 1" in said
    assert "por exemplo none.txt" in said
    said = CliRunner().invoke(main, ["inspect", str(path), "--no-scores"], env=environment).output
    assert "Este arquivo seria relatado" in said
    assert "bits usados" in said
    whole = (
        CliRunner()
        .invoke(main, ["plan", str(path.parent), "--sample", "1", "--names"], env=environment)
        .output
    )
    assert "cabeçalhos lidos: 1; as contagens são extrapoladas deles" in whole
    path.write_bytes(b"no radiograph")
    said = CliRunner().invoke(main, ["plan", str(path.parent), "--names"], env=environment).output
    assert "por exemplo 3 of 5 read.dcm" in said


def test_doctor_speaks_portuguese(tmp_path: Path) -> None:
    environment = {"CXR_LANGUAGE": "pt-BR", "CXR_WEIGHTS": "seeded"}
    said = CliRunner().invoke(main, ["doctor", "--out", str(tmp_path)], env=environment).output
    seeded = r"^ver +model +os pesos \w+… estão certos, \w+ os carrega; PESOS DE TESTE ALEATÓRIOS"
    assert re.search(seeded, said, re.MULTILINE)
    assert re.search(rf"^ok +disk +{tmp_path}: [\d,]+ GB livres", said, re.MULTILINE)
    translation.use(LANGUAGE)
    slow = "http://x answers in 3 ms; it doesn't tell whether it deletes its oldest patients to make room"
    assert translation.translated(slow).startswith("http://x responde em 3 ms; não informa se apaga")
