"""Wrong uses, a row each: the command, how it ends, and the first line that the user reads. None of them is a trace."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from backlog.model import PREPROCESSING
from producer.cli.main import main
from tests.support.dicom_images import chest, dicom
from tests.support.ended_runs import ended_run, harvest, list_items, new_ledger, reported, some_scores
from tests.support.servers import free_port

PROGRAM = str(Path(sys.executable).with_name("cxr-backlog"))
REFUSED = f"http://127.0.0.1:{free_port()}"

#: Settings before the command, as a shell has them; then its arguments; the exit status; the first line.
ROWS: list[tuple[str, int, str]] = [
    # no command, or none that there is
    ("fly", 2, "No such command 'fly'"),
    ("statsu out", 2, "No such command 'statsu'"),
    ("--fly", 2, "No such option.*--fly"),
    # plan
    ("plan", 2, "Missing argument 'SOURCE'"),
    ("plan nothing.zip", 2, "nothing.zip: no such file or folder"),
    ("plan text", 2, "text.*no zip archive"),
    ("plan cut.zip", 2, "cut.zip.*cut off"),
    ("plan empty.zip", 2, "empty.zip"),
    ("plan z.zip extra", 2, "unexpected extra argument"),
    ("plan z.zip --sample many", 2, "'--sample'.*not a valid integer"),
    ("plan z.zip --fly", 2, "No such option.*--fly"),
    ("plan z.zip --since 2024-01-01", 2, "taken whole"),
    ("plan z.zip --modality CR", 2, "taken whole"),
    ("plan orthanc", 2, "the source 'orthanc' needs the address"),
    (f"plan orthanc --pacs {REFUSED}", 5, "nothing listens at this port"),
    ("plan orthanc --pacs http://nowhere.invalid", 5, "no host of this name is known"),
    ("plan orthanc --pacs ftp://x", 2, "needs the address"),
    ("plan out", 2, "this is a run's folder"),
    ("plan ''", 2, "SOURCE is empty"),
    # run: its source, its folder, its options
    ("run", 2, "Missing argument 'SOURCE'"),
    ("run nothing.zip", 2, "nothing.zip: no such file or folder"),
    ("run text", 2, "no zip archive"),
    ("run cut.zip", 2, "cut off"),
    ("run orthanc", 2, "needs the address"),
    ("run out", 2, "this is a run's folder"),
    ("run z.zip --out out", 2, "holds a run already"),
    ("run z.zip --out taken", 2, "scores.csv: this file exists, and the run would replace it"),
    ("run z.zip --out text", 2, "text"),
    ("run z.zip --out text/below", 2, "can't be made"),
    ("run z.zip --out", 2, "'--out' requires an argument"),
    ("run z.zip --workers 0", 2, "--workers.*0 is not in the range"),
    ("run z.zip --workers 257", 2, "--workers.*257 is not in the range"),
    ("run z.zip --workers two", 2, "--workers.*not a valid integer"),
    ("run z.zip --since 2024-01-01", 2, "taken whole"),
    ("run z.zip --study-date 20240101", 2, "taken whole"),
    ("run z.zip --derived-objects film", 2, "film"),
    ("run z.zip --predecessor empty", 2, "empty: no run here"),
    ("run z.zip --predecessor begun", 2, "has scored nothing yet"),
    ("run z.zip --pacs localhost:8042", 2, "localhost:8042"),
    ("run z.zip --pacs ftp://x", 2, "ftp"),
    ("run z.zip --pacs http://me:secret@localhost", 2, "CXR_PACS_PASSWORD"),
    (f"run z.zip --pacs {REFUSED}", 5, "nothing listens at this port"),
    ("run z.zip --pacs http://nowhere.invalid", 5, "no host of this name is known"),
    ("run orthanc --pacs http://x --since yesterday", 2, "'yesterday' is no date"),
    ("run orthanc --pacs http://x --since 2024-13-01", 2, "is no date"),
    ("run orthanc --pacs http://x --study-date 2024-01-01-2024-02-01", 2, "write it as 20240101"),
    ("run orthanc --pacs http://x --study-date 20240201-20240101", 2, "is no date"),
    ("run orthanc --pacs http://x --modality 'CR;DX'", 2, "is no modality"),
    ("run orthanc --pacs http://x --modality ''", 2, "names no modality"),
    ("run orthanc --pacs http://x --modality", 2, "requires an argument"),
    # a run's folder that is none
    *[
        (f"{command} {where} {more}".strip(), 2, f"{where}: no run here")
        for where in ("empty", "nowhere")
        for command, more in [
            ("resume", ""),
            ("pause", ""),
            ("cancel", ""),
            ("status", ""),
            ("status --json", ""),
            ("status --watch", ""),
            ("items", ""),
            ("quarantine", ""),
            ("quarantine show", "1"),
            ("quarantine replay", "--to new"),
            ("verify", ""),
            ("verify --json", ""),
            ("retract", ""),
            ("retract --yes", ""),
            ("export", ""),
            ("summary", ""),
            ("audit verify", ""),
        ]
    ],
    *[
        (command, 2, "Missing argument 'OUT'")
        for command in ("resume", "pause", "cancel", "status", "items", "verify")
    ],
    *[(command, 2, "Missing argument 'OUT'") for command in ("retract", "export", "summary", "audit verify")],
    *[
        (f"{command} text", 2, "text")
        for command in ("resume", "status", "items", "verify", "export", "retract")
    ],
    ("status broken", 2, "can't be opened"),
    # items and quarantine
    ("items out --outcome lost", 2, "'lost' is not one of"),
    ("items out --reason laterol", 2, "did you mean lateral"),
    ("quarantine out --reason blanc", 2, "did you mean blank"),
    ("quarantine out --reason lateral", 2, "'lateral' is no reason"),
    ("quarantine show out", 2, "Missing argument 'ITEM'"),
    ("quarantine show out seven", 2, "'seven' is not a valid integer"),
    ("quarantine show out 999", 2, "no item 999 has ended"),
    ("quarantine replay out", 2, "Missing option '--to'"),
    ("quarantine replay out --to new", 2, "nothing is quarantined"),
    ("quarantine replay out --to new --reason blank", 2, "nothing is quarantined for blank"),
    ("quarantine replay out --to out", 2, "holds a run already"),
    # outputs
    ("export out --format xml", 2, "'xml' is not one of"),
    ("export out --format parquet --excel", 2, "--excel is a form of csv"),
    ("export out --to z.zip", 2, "z.zip: this .* did not write it"),
    ("export out --to text", 2, "text: this file exists, and this command did not write it"),
    ("export out --to out/ledger.sqlite --force", 2, "is an input"),
    ("export out --to link-to-ledger --force", 2, "is an input"),
    ("export out --to empty", 2, "empty"),
    ("export out --to no/x.csv", 2, "can't be written"),
    ("export out --to /sys/x.csv", 2, "can't be written"),
    ("export out --to /dev/full", 5, "can't be written"),
    ("summary out --to text", 2, "did not write it"),
    ("summary out --to out/ledger.sqlite --force", 2, "is an input"),
    ("summary out --groups text", 2, "it needs --baseline"),
    ("summary out --baseline empty", 2, "empty: no run here"),
    ("summary out --orthanc javascript:x", 2, "no address of an Orthanc"),
    ("audit verify out", 2, "audit.jsonl: can't be read"),
    # after a run
    ("verify out", 2, "is not there or empty"),
    ("retract out --yes", 2, "is not there or empty"),
    ("retract copied --yes", 2, "this is a copy of the run in"),
    ("resume copied", 2, "this is a copy of the run in"),
    ("pause copied", 2, "this is a copy of the run in"),
    ("cancel copied", 2, "this is a copy of the run in"),
    # validate and compare
    ("validate", 2, "Missing argument 'OUT'"),
    ("validate out", 2, "--labels FILE is needed"),
    ("validate out --labels nothing.csv", 2, "'nothing.csv' does not exist"),
    ("validate out --labels empty", 2, "'empty' is a directory"),
    ("validate out --labels pipe", 2, "a pipe or a device, and no file"),
    ("validate out --labels text", 2, "no comma, semicolon or tab"),
    ("validate out --labels z.zip", 2, "no table of text"),
    ("validate out --labels mangled.csv", 2, "line 2: study_uid was turned into a number by a spreadsheet"),
    ("validate out --labels twice.csv", 2, "1 keys stand in more than one row"),
    ("validate out --labels readers.csv", 2, "choose --readers majority or any"),
    ("validate out --labels readers.csv --readers most", 2, "'most' is not one of"),
    ("validate out --labels uncertain.csv", 2, "1 labels are uncertain .-1.: choose with --uncertain"),
    ("validate out --labels uncertain.csv --uncertain maybe", 2, "'maybe' is not one of"),
    ("validate out --labels blank.csv", 2, "1 labels are blank: choose with --blank"),
    ("validate out --labels others.csv", 2, "none of its 1 rows is about an image of this run"),
    ("validate out --labels exams.csv", 2, "write it first with"),
    ("validate out --labels exams.csv --names open.csv", 2, "other users may read this file"),
    ("validate out --labels exams.csv --names closed.csv", 2, "no file of 'cxr-backlog export --names'"),
    ("validate out --labels exams.csv --key accession_number=number", 2, "write COLUMN=KIND"),
    ("validate out --labels exams.csv --key exam=accession_number", 2, "no column 'exam'"),
    ("validate out --labels labels.csv --by ward", 2, "--by ward: no such column"),
    ("validate out --labels labels.csv --propose best", 2, "'best' is no rule"),
    ("validate out --labels labels.csv --propose sensitivity=2", 2, "'sensitivity=2' is no rule"),
    ("validate out --labels labels.csv --propose sensitivity=nan", 2, "'sensitivity=nan' is no rule"),
    ("validate out --labels labels.csv --to text", 2, "'text' is a file"),
    ("validate out --labels labels.csv --to text/below", 2, "text/below: can't be made"),
    ("validate out --labels labels.csv --to judged", 2, "validation.json: this file exists"),
    ("validate empty --labels labels.csv", 2, "empty: no run here"),
    ("validate begun --labels labels.csv", 2, "none of its 40 rows is about an image of this run"),
    ("compare out", 2, "Missing argument 'SECOND'"),
    ("compare out empty", 2, "empty: no run here"),
    ("compare text out", 2, "text"),
    ("compare out begun", 2, "no image in common"),
    ("compare out copied --labels mangled.csv", 2, "turned into a number by a spreadsheet"),
    # lists and operating points
    ("plan z.zip --only nothing.csv", 2, "'nothing.csv' does not exist"),
    ("plan z.zip --only pipe", 2, "a pipe or a device, and no file"),
    ("run z.zip --out new --only z.zip", 2, "no table of text"),
    ("run z.zip --out new --only mangled.csv", 2, "turned into a number by a spreadsheet"),
    ("run z.zip --out new --only two-keys.csv", 2, "more than one column says which images are wanted"),
    ("run z.zip --out new --only wild.csv", 2, "line 2: patient_id holds a wildcard"),
    ("run z.zip --out new --only exams.csv --only-by exam", 2, "no column 'exam'"),
    ("run z.zip --out new --only-by exam", 2, "--only-by names a column of the list of --only"),
    ("run z.zip --out new --only files.csv --make-uids --since 2024-01-01", 2, "doesn.t go together"),
    ("run z.zip --out new --only exams.csv --wrap-images", 2, "give a list of file names"),
    (
        "run orthanc --pacs http://x --only exams.csv --study-date 20240101",
        2,
        "doesn't go together with --since",
    ),
    ("plan orthanc --pacs http://x --only files.csv", 2, "a PACS has no file names"),
    ("plan modality:A --pacs http://x --only files.csv", 2, "a PACS has no file names"),
    (
        "plan modality:A --pacs http://x --only two-keys.csv --only-by series_uid",
        2,
        "can't be asked for a series_inst",
    ),
    ("plan dicomweb+http://x/rs --only files.csv", 2, "a PACS has no file names"),
    ("run z.zip --out new --operating-points nothing.json", 2, "'nothing.json' does not exist"),
    ("run z.zip --out new --operating-points text", 2, "no file of operating points .no JSON"),
    ("run z.zip --out new --operating-points pipe", 2, "a pipe or a device, and no file"),
    ("run z.zip --out new --operating-points z.zip", 2, "no file of operating points"),
    (
        "run z.zip --out new --operating-points nan.json",
        2,
        "threshold of Mass must be a number between 0 and 1",
    ),
    ("run z.zip --out new --operating-points other-model.json", 2, "are for another model"),
    # inspect
    ("inspect", 2, "Missing argument 'FILE'"),
    ("inspect nothing.dcm", 2, "'nothing.dcm' does not exist"),
    ("inspect empty", 2, "'empty' is a directory"),
    ("inspect a.dcm --picture a.dcm", 2, "a.dcm: this is an input"),
    ("inspect a.dcm --picture a.dcm --force", 2, "a.dcm: this is an input"),
    ("inspect a.dcm --picture text", 2, "text: this file exists"),
    ("inspect a.dcm --picture no/x.png --no-scores", 2, "can't be written"),
    ("inspect a.dcm --picture empty", 2, "empty"),
    ("CXR_WEIGHTS=none.pt inspect a.dcm", 2, "none.pt"),
    # demo
    ("demo --count 0", 2, "--count.*0 is not in the range"),
    ("demo --out demo", 2, "the demo would replace this file"),
    ("CXR_REDIS_URL=redis://x demo", 2, "unset CXR_REDIS_URL"),
    # settings
    ("CXR_REDIS_ULR=x plan z.zip", 2, "did you mean CXR_REDIS_URL"),
    *[
        (f"CXR_REDIS_ULR=x {command}", 2, "did you mean CXR_REDIS_URL")
        for command in (
            *("status out", "items out", "quarantine out", "quarantine show out 1", "export out", "runs"),
            *("summary out", "audit verify out", "pause out", "cancel out", "resume out", "retract out"),
            *("validate out --labels labels.csv", "compare out begun", "inspect a.dcm", "doctor", "demo"),
        )
    ],
    ("CXR_PACS_PASWORD=x plan z.zip", 2, "did you mean CXR_PACS_PASSWORD"),
    ("CXR_XYZZY=1 plan z.zip", 2, "unknown setting CXR_XYZZY: see"),
    ("CXR_COMPANIONS=pdf plan z.zip", 2, "is now called CXR_DERIVED_OBJECTS"),
    ("CXR_CHUNK_SIZE=many plan z.zip", 2, "'many' is no whole number"),
    ("CXR_CHUNK_SIZE=0 plan z.zip", 2, "CXR_CHUNK_SIZE: 0 is not allowed"),
    ("CXR_PACS_SECONDS=soon plan z.zip", 2, "is no decimal number"),
    ("CXR_PACS_SECONDS=nan plan z.zip", 2, "CXR_PACS_SECONDS"),
    ("CXR_LATERALS=perhaps plan z.zip", 2, "is no true or false"),
    ("CXR_LANGUAGE=de plan z.zip", 2, "is none of en, pt-BR"),
    ("CXR_ENGINE=steam plan z.zip", 2, "is none of"),
    ("CXR_PACS_PASSWORD=x CXR_PACS_PASSWORD_FILE=text plan z.zip", 2, "are both set: unset one"),
    ("CXR_REDIS_URL=redis://x CXR_REDIS_URL_FILE=text plan z.zip", 2, "are both set: unset one"),
    ("CXR_PACS_PASSWORD_FILE=nothing plan z.zip", 2, "names a file that can't be read"),
    ("CXR_PACS_PASSWORD_FILE=latin plan z.zip", 2, "no UTF-8"),
    ("CXR_DERIVED_OBJECTS=film run z.zip", 2, "film"),
    ("CXR_REDIS_URL=nonsense run z.zip --out new2", 2, "CXR_REDIS_URL"),
    (f"CXR_REDIS_URL=redis://127.0.0.1:{free_port()}/0 run z.zip --out new3", 5, "Redis is unavailable"),
    (f"CXR_PACS_CA=nothing run z.zip --pacs {REFUSED}", 2, "CXR_PACS_CA names no file"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the rows name."""
    here = tmp_path_factory.mktemp("wrong uses")
    with zipfile.ZipFile(here / "z.zip", "w") as archive:
        archive.writestr("a", dicom(chest(64, 64)))
    whole = (here / "z.zip").read_bytes()
    (here / "cut.zip").write_bytes(whole[: len(whole) - 60])
    (here / "empty.zip").touch()
    (here / "text").write_text("no zip\n")
    (here / "latin").write_bytes("sésamo".encode("latin-1"))
    (here / "a.dcm").write_bytes(dicom(chest(64, 64)))
    (here / "empty").mkdir()
    (here / "taken").mkdir()
    (here / "taken" / "scores.csv").write_text("mine\n")
    (here / "demo").mkdir()
    (here / "demo" / "backlog.zip").write_text("mine\n")
    (here / "broken").mkdir()
    (here / "broken" / "ledger.sqlite").write_bytes(b"no database" * 999)
    ended_run(here / "out", place=str(here / "out")).close()
    _tables(here)
    (here / "link-to-ledger").symlink_to(here / "out" / "ledger.sqlite")
    begun = new_ledger(here / "begun")
    begun.set("job", begun.get("job") | {"weights": ""})
    begun.close()
    copied = new_ledger(here / "copied", place=str(here / "out"))
    list_items(copied, 4)
    harvest(copied, lambda item: reported(item, some_scores(item)))
    copied.close()
    return here


def _tables(here: Path) -> None:
    """Tables and operating points, right and wrong."""
    os.mkfifo(here / "pipe")
    tables = {
        "labels": "sop_instance_uid,Mass\n" + "".join(f"1.2.3.{n},{n % 2}\n" for n in range(40)),
        "mangled": "study_uid,Mass\n1.2E+05,1\n",
        "twice": "sop_instance_uid,Mass\n1.2.3.1,1\n1.2.3.1,0\n",
        "readers": "sop_instance_uid,rad_id,Mass\n1.2.3.1,R1,1\n1.2.3.1,R2,0\n",
        "uncertain": "sop_instance_uid,Mass\n1.2.3.1,-1\n",
        "blank": "sop_instance_uid,Mass\n1.2.3.1,\n",
        "others": "sop_instance_uid,Mass\n9.9,1\n",
        "exams": "accession_number,Mass\nA1,1\n",
        "files": "file_name,Mass\na,1\n",
        "wild": "patient_id\nP*\n",
        "two-keys": "series_uid,study_uid\n1.2,1.3\n",
        "open": "sop_instance_uid,accession_number\n1.2.3.1,A1\n",
        "closed": "accession_number\nA1\n",
    }
    for name, text in tables.items():
        (here / f"{name}.csv").write_text(text)
    (here / "open.csv").chmod(0o644)
    (here / "closed.csv").chmod(0o600)
    (here / "judged").mkdir()
    (here / "judged" / "validation.json").write_text("mine\n")
    points = {
        "format": "cxr-backlog operating points 1",
        "model": "densenet121-res224-all",
        "weights_sha256": "ab" * 32,
        "weights_meaningful": True,
        "preprocessing": PREPROCESSING,
        "points": {"Mass": {"threshold": 0.4}},
    }
    (here / "nan.json").write_text(json.dumps(points | {"points": {"Mass": {"threshold": float("nan")}}}))
    (here / "other-model.json").write_text(json.dumps(points | {"model": "resnet50-res512-all"}))


def test_the_table_is_long_enough() -> None:
    assert len(ROWS) > 100
    assert len({command for command, _, _ in ROWS}) == len(ROWS)


@pytest.mark.parametrize(
    ("command", "status", "first"), ROWS, ids=[re.sub(r"(127\.0\.0\.1):\d+", r"\1", row[0]) for row in ROWS]
)
def test_a_wrong_use_ends_with_one_clear_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, command: str, status: int, first: str
) -> None:
    words = shlex.split(command)
    settings = dict(word.split("=", 1) for word in words if re.match(r"CXR_\w+=", word))
    arguments = [word for word in words if not re.match(r"CXR_\w+=", word)]
    before = _content(place)
    kept = (
        command.startswith("CXR_REDIS_URL") and "run" in words
    )  # a run that is made before Redis is looked for
    monkeypatch.chdir(place)
    done = CliRunner().invoke(main, arguments, env={"CXR_WEIGHTS": "seeded"} | settings)
    assert done.exit_code == status, (done.output, done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    line = done.stderr.splitlines()[0] if done.stderr else ""
    assert re.search(first, line), done.stderr
    assert "Traceback" not in done.output
    assert len(done.stderr.splitlines()) <= 6, done.stderr
    assert kept or _content(place) == before, "something was changed or left behind"


def _content(place: Path) -> dict[str, bytes]:
    """What every file holds; not what SQLite's readers do to a ledger's files, and not locks."""
    return {
        str(path.relative_to(place)): b"" if path.resolve().name == "ledger.sqlite" else path.read_bytes()
        for path in sorted(place.rglob("*"))
        if path.is_file()
        and not path.is_fifo()
        and not path.name.endswith(("-shm", "-wal"))
        and path.name != "lock"
    }


def test_all_settings_are_listed_also_beside_a_misspelt_one() -> None:
    done = CliRunner().invoke(main, ["settings"], env={"CXR_REDIS_ULR": "x"})
    assert done.exit_code == 0, done.output
    assert CliRunner().invoke(main, ["status", "--help"], env={"CXR_REDIS_ULR": "x"}).exit_code == 0


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii"},
        {"HOME": "/nowhere"},
        {"HOME": ""},
        {},
    ],
    ids=["C", "ascii", "foreign home", "empty home", "nothing"],
)
def test_every_environment_is_good_for_a_message(place: Path, environment: dict[str, str]) -> None:
    for arguments, status in (
        (["plan", "z.zip"], 0),
        (["run", "não há.zip"], 2),
        (["--help"], 0),
        (["settings"], 0),
    ):
        done = subprocess.run(
            [PROGRAM, *arguments],
            env={"PATH": os.environ["PATH"]} | environment,
            cwd=place,
            capture_output=True,
            timeout=120,
        )
        assert done.returncode == status, done.stderr
        assert b"Traceback" not in done.stderr


def test_an_unreadable_subfolder_is_named_and_counted(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("open", "closed"):
        (source / name).mkdir(parents=True)
        (source / name / "a.dcm").write_bytes(dicom(chest(64, 64), SOPInstanceUID=f"1.2.{len(name)}"))
    (source / "closed").chmod(0)
    # The superuser may read everywhere, unless that is taken from him.
    bound = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    try:
        command = [*bound, PROGRAM, "plan", str(source)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    finally:
        (source / "closed").chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert "1 folders can't be read (permission denied), and count as unreadable: closed" in done.stderr
    assert "To score  1" in done.stdout
    assert "unreadable 1" in done.stdout
