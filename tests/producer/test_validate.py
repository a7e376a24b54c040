"""`validate` and `compare` from the command line, on ledgers of runs that have ended."""

from __future__ import annotations

import csv
import json
import os
import random
import stat
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from backlog.model import LABELS, PREPROCESSING
from backlog.outcomes import Reason
from producer.cli.main import main
from producer.ledger.ledger import Ledger
from producer.run.open import open_ledger
from producer.validation.operating_points import check_fits, read_operating_points
from tests.support.ended_runs import (
    ended_run,
    harvest,
    list_items,
    new_ledger,
    rejected,
    reported,
    some_scores,
)

COUNT = 240


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments])


def labels_of(ledger: Ledger, path: Path, *, by: str = "sop_instance_uid", **more: Any) -> Path:
    """Labels of the first finding that its score foretells mostly: positives score above 0.5 more often."""
    draw = random.Random(5)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([by, "Atelectasis", "Mass", "site"])
        seen = set()
        for item in ledger.items():
            key = getattr(item, by)
            if not key or key in seen:
                continue
            seen.add(key)
            score = json.loads(item.scores)[0] if item.scores else 0.5
            positive = int(score + draw.gauss(0, 0.1) > 0.5)
            writer.writerow([key, positive, more.get("mass", 0), "AB"[item.no % 2]])
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    ended_run(tmp_path / "run", COUNT).close()
    return tmp_path / "run"


@pytest.fixture
def labels(run: Path, tmp_path: Path) -> Path:
    ledger = Ledger(run / "ledger.sqlite", write=False)
    path = labels_of(ledger, tmp_path / "labels.csv")
    ledger.close()
    return path


def test_the_summary_links_the_pages_where_they_are_put(run: Path, labels: Path, tmp_path: Path) -> None:
    ended_run(tmp_path / "other", COUNT).close()
    assert call("validate", run, "--labels", labels).exit_code == 0
    assert call("compare", tmp_path / "other", run).exit_code == 0
    assert call("summary", run).exit_code == 0
    page = (run / "summary.html").read_text()
    for link in ("validation/validation.html", "comparison/comparison.html"):
        assert f'href="{link}"' in page
        assert (run / link).is_file()


def test_a_run_is_compared_with_labels(run: Path, labels: Path) -> None:
    done = call("validate", run, "--labels", labels, "--by", "site", "--propose", "youden")
    assert done.exit_code == 0, done.output
    assert f"Joined    {COUNT} of {COUNT} rows; {COUNT} of {COUNT} reported images" in done.output
    assert "Mass                                0      240  -  fewer than 20 of one kind" in done.output
    content = json.loads((run / "validation" / "validation.json").read_text())
    atelectasis, mass = content["findings"]
    assert (atelectasis["label"], mass["label"]) == ("Atelectasis", "Mass")
    assert 0.7 < atelectasis["auc"]["low"] < atelectasis["auc"]["value"] < atelectasis["auc"]["high"] < 1
    assert atelectasis["used"]["threshold"] == 0.5
    assert {one["group"] for one in atelectasis["groups"]["site"]} == {"A", "B"}
    assert mass["auc"] is None
    points = read_operating_points(run / "validation" / "operating-points.json")
    assert list(points.thresholds) == ["Atelectasis"]
    assert points.thresholds["Atelectasis"] == pytest.approx(atelectasis["proposed"]["threshold"])
    check_fits(points, model="densenet121-res224-all", preprocessing=PREPROCESSING, path=Path("p"))
    assert points.weights_sha256 == "ab" * 32


def test_a_second_comparison_replaces_the_first(run: Path, labels: Path) -> None:
    for _ in range(2):
        assert call("validate", run, "--labels", labels).exit_code == 0
    (run / "validation" / "validation.html").write_text("somebody's own page")
    assert call("validate", run, "--labels", labels).exit_code == 2


def test_what_could_not_be_joined_is_counted_and_listed(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path / "run")
    list_items(ledger, 100)

    def record(item: int) -> Any:
        if item < 10:
            return rejected(Reason.LATERAL, sop_instance_uid=f"1.2.3.{item}")
        return reported(item, some_scores(item))

    harvest(ledger, record)
    path = labels_of(ledger, tmp_path / "labels.csv")
    ledger.close()
    with path.open("a", encoding="utf-8") as file:
        file.write("9.9.9,1,0,A\n")
    done = call("validate", tmp_path / "run", "--labels", path)
    assert done.exit_code == 0, done.output
    assert "10 rows: skipped: lateral" in done.output
    assert "1 rows: no such image in this run" in done.output
    assert "9.9.9" not in done.output
    listed = tmp_path / "run" / "validation" / "unjoined.csv"
    assert stat.S_IMODE(listed.stat().st_mode) == 0o600
    with listed.open(newline="") as file:
        assert {row["key"]: row["reason"] for row in csv.DictReader(file)}[
            "9.9.9"
        ] == "no such image in this run"


def test_no_spreadsheet_takes_an_unjoined_key_for_a_formula(run: Path, tmp_path: Path) -> None:
    keys = ["=cmd|x", "-1001", "@77", "+5", "'-3", "plain"]
    rows = [f"P{number}" for number in range(COUNT // 4)]
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("patient_id", "Mass"), *((key, 1) for key in [*rows, *keys])])
    done = call("validate", run, "--labels", tmp_path / "labels.csv", "--names", names_file(tmp_path))
    assert f"{len(keys)} rows: no such image in this run" in done.output
    with (run / "validation" / "unjoined.csv").open(newline="") as file:
        cells = [row["key"] for row in csv.DictReader(file)]
    assert cells == ["'=cmd|x", "'-1001", "'@77", "'+5", "''-3", "plain"]


def test_a_study_counts_with_its_highest_score(run: Path, tmp_path: Path) -> None:
    ledger = Ledger(run / "ledger.sqlite", write=False)
    path = labels_of(ledger, tmp_path / "studies.csv", by="study_instance_uid")
    ledger.close()
    done = call("validate", run, "--labels", path)
    assert done.exit_code == 0, done.output
    assert f"Joined    {COUNT // 2} of {COUNT // 2} rows; {COUNT} of {COUNT} reported images" in done.output


@pytest.mark.parametrize(("cell", "option"), [("-1", "--uncertain"), ("", "--blank")])
def test_a_doubtful_label_is_never_decided_in_silence(
    run: Path, labels: Path, cell: str, option: str
) -> None:
    lines = labels.read_text().splitlines()
    uid, _, *rest = lines[1].split(",")
    labels.write_text("\n".join([lines[0], ",".join([uid, cell, *rest]), *lines[2:]]) + "\n")
    refused = call("validate", run, "--labels", labels)
    assert refused.exit_code == 2
    assert f"1 labels are {'uncertain' if cell else 'blank'}" in refused.output
    counts = []
    for choice in ("ignore", "positive", "negative"):
        assert call("validate", run, "--labels", labels, option, choice).exit_code == 0
        found = json.loads((run / "validation" / "validation.json").read_text())["findings"][0]
        counts.append((found["positives"], found["negatives"]))
    (positives, negatives), second, third = counts
    assert second == (positives + 1, negatives)
    assert third == (positives, negatives + 1)


def test_too_little_to_judge_by_ends_with_three(tmp_path: Path) -> None:
    ledger = ended_run(tmp_path / "run", 16)
    path = labels_of(ledger, tmp_path / "labels.csv")
    ledger.close()
    done = call("validate", tmp_path / "run", "--labels", path, "--propose", "youden")
    assert done.exit_code == 3
    assert "Too little to judge by: no finding has 20 positives and 20 negatives." in done.output
    assert "less than half" not in done.output
    assert "No operating point can be proposed" in done.output
    assert "No point, with fewer than 20 positives or 20 negatives: Atelectasis, Mass" in done.output
    assert not (tmp_path / "run" / "validation" / "operating-points.json").exists()


@pytest.mark.parametrize(("to", "said"), [("/sys/x", "can't be made"), ("labels.csv", "can't be made")])
def test_a_folder_that_cant_be_made_is_the_users_to_change(
    run: Path, labels: Path, tmp_path: Path, to: str, said: str
) -> None:
    done = call("validate", run, "--labels", labels, "--to", tmp_path / to)
    assert done.exit_code == 2
    assert said in done.output or "is a file" in done.output


def test_each_finding_without_a_point_says_why(tmp_path: Path) -> None:
    """Of these labels no threshold has a PPV of 0.99: what they call present has the lower scores."""
    ledger = ended_run(tmp_path / "run", COUNT)
    job = ledger.get("job")
    low = [int(item.score_list[LABELS.index("Effusion")] < 0.5) for item in ledger.items()]  # type: ignore[operator]
    ledger.set("job", job | {"model": "densenet121-res224-nih"})
    ledger.close()
    rows = [f"1.2.3.{n},{low[n]},{int(n < 3)},{n % 2}" for n in range(COUNT)]
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(["sop_instance_uid,Effusion,Mass,Fracture", *rows]))
    done = call("validate", tmp_path / "run", "--labels", path, "--propose", "ppv=0.99")
    assert "No operating point can be proposed.\n" in done.output
    assert "No point, since no threshold reaches ppv=0.99: Effusion\n" in done.output
    assert "No point, with fewer than 20 positives or 20 negatives: Mass\n" in done.output
    assert "No point, since the model was not trained on them: Fracture\n" in done.output
    assert "  not evaluated by this model\n" in done.output
    page = (tmp_path / "run" / "validation" / "validation.html").read_text()
    assert "No point, since no threshold reaches ppv=0.99: Effusion." in page


def test_labels_of_other_images_are_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("sop_instance_uid,Mass\n7.7.7,1\n")
    done = call("validate", run, "--labels", tmp_path / "labels.csv")
    assert done.exit_code == 2
    assert "none of its 1 rows is about an image of this run (joined by sop_instance_uid)" in done.output


def test_labels_by_accession_number_need_the_names(run: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("AccessionNumber,Mass\n7,1\n")
    done = call("validate", run, "--labels", tmp_path / "labels.csv")
    assert done.exit_code == 2
    assert "export OUT --names" in done.output


def names_file(folder: Path, mode: int = 0o600) -> Path:
    path = folder / "names.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["item", "sop_instance_uid", "accession_number", "patient_id", "patient_sex"])
        writer.writerows(
            (n, f"1.2.3.{n}", f"A{n // 2}", f"P{n // 4}", "MF"[n // 4 % 2]) for n in range(COUNT)
        )
    path.chmod(mode)
    return path


def test_names_join_by_accession_number_and_group(run: Path, tmp_path: Path) -> None:
    rows = "".join(f"A{n},{n % 2}\n" for n in range(COUNT // 2))
    (tmp_path / "labels.csv").write_text("AccessionNumber,Mass\n" + rows)
    names = names_file(tmp_path)
    done = call("validate", run, "--labels", tmp_path / "labels.csv", "--names", names, "--by", "patient_sex")
    assert done.exit_code == 0, done.output
    content = json.loads((run / "validation" / "validation.json").read_text())
    assert content["joined"]["clustered_by"] == "patient"
    assert {one["group"] for one in content["findings"][0]["groups"]["patient_sex"]} == {"M", "F"}
    assert '"P1"' not in json.dumps(content)


def test_names_that_others_may_read_are_refused(run: Path, tmp_path: Path, labels: Path) -> None:
    done = call("validate", run, "--labels", labels, "--names", names_file(tmp_path, 0o644))
    assert done.exit_code == 2
    assert "chmod 600" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--labels FILE is needed"),
        (["--propose", "best"], "is no rule; write youden"),
        (["--by", "nowhere"], "no such column in the labels"),
        (["--key", "site"], "write COLUMN=KIND"),
    ],
)
def test_wrong_uses_say_what_to_write(run: Path, labels: Path, arguments: list[str], message: str) -> None:
    done = call("validate", run, *(["--labels", labels] if arguments else []), *arguments)
    assert done.exit_code == 2
    assert message in done.output


def test_the_page_is_self_contained_and_in_both_languages(
    run: Path, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: dict[str, str] = {}
    for language in ("en", "pt-BR"):
        monkeypatch.setenv("CXR_LANGUAGE", language)
        assert call("validate", run, "--labels", labels, "--by", "site", "--propose", "youden").exit_code == 0
        text = (run / "validation" / "validation.html").read_text()
        assert "<script" not in text
        assert f'<html lang="{language}">' in text
        pages[language] = text
    assert "Sensitivity" in pages["en"]
    assert "Sensibilidade" in pages["pt-BR"]
    assert "Sensitivity" not in pages["pt-BR"]
    assert '<th scope="row">Mass</th>' in pages["en"]
    assert '<th scope="row">Massa</th>' in pages["pt-BR"]
    assert "Atelectasis" not in pages["pt-BR"]


def test_seeded_weights_mean_nothing_here_too(tmp_path: Path) -> None:
    ledger = ended_run(tmp_path / "run", 60, meaningful=False)
    path = labels_of(ledger, tmp_path / "labels.csv")
    ledger.close()
    done = call("validate", tmp_path / "run", "--labels", path)
    assert "SEEDED WEIGHTS: THE SCORES MEAN NOTHING" in done.output
    assert "SEEDED WEIGHTS" in (tmp_path / "run" / "validation" / "validation.html").read_text()


@pytest.mark.parametrize("module", ["sklearn", "scipy", "jinja2"])
@pytest.mark.parametrize("command", ["validate", "compare"])
def test_a_missing_library_is_named_with_its_extra(
    run: Path, labels: Path, monkeypatch: pytest.MonkeyPatch, module: str, command: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    done = call(command, run, *([run] if command == "compare" else ["--labels", labels]))
    assert done.exit_code == 2
    assert f"this command needs {module}" in done.output
    assert "install cxr-backlog[validate]" in done.output


# -- two runs ------------------------------------------------------------------------------------------------


def test_two_runs_are_compared_image_by_image(run: Path, tmp_path: Path, labels: Path) -> None:
    ended_run(tmp_path / "other", COUNT - 40, shift=0.1).close()
    done = call("compare", run, tmp_path / "other", "--labels", labels)
    assert done.exit_code == 0, done.output
    assert f"Images    {COUNT - 40} in both, 40 and 0 in one only" in done.output
    found = json.loads((tmp_path / "other" / "comparison" / "comparison.json").read_text())
    first = found["findings"][0]
    assert first["mean_difference"]["value"] == pytest.approx(0.1, abs=0.005)
    assert first["to_present"] > 0
    assert first["to_absent"] == 0
    assert abs(first["auc_difference"]["value"]) < 0.02
    assert all(one["largest"] == 0 for one in found["findings"][1:])
    assert {one["label"] for one in found["most_different"]} == {LABELS[0]}
    assert (tmp_path / "other" / "comparison" / "comparison.html").read_text().startswith("<!-- cxr-backlog")


def test_findings_change_by_each_runs_own_operating_point(run: Path, tmp_path: Path) -> None:
    other = ended_run(tmp_path / "other", COUNT)
    job = other.get("job")
    job["operating_points"] = {"sha256": "00" * 32, "thresholds": {LABELS[0]: 0.0}}
    other.set("job", job)
    other.close()
    assert call("compare", run, tmp_path / "other").exit_code == 0
    found = json.loads((tmp_path / "other" / "comparison" / "comparison.json").read_text())
    first, *others = found["findings"]
    assert first["largest"] == 0  # the scores are the same
    assert first["to_present"] > 0
    assert first["to_absent"] == 0
    assert all(one["to_present"] == one["to_absent"] == 0 for one in others)


def test_runs_without_a_common_image_are_refused(run: Path, tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path / "other")
    list_items(ledger, 1)
    harvest(ledger, lambda item: reported(item, some_scores(item), sop_instance_uid="9.9"))
    ledger.close()
    done = call("compare", run, tmp_path / "other")
    assert done.exit_code == 2
    assert "no image in common" in done.output


#: What the network of NIH's images was not trained on.
UNKNOWN = ["Lung Lesion", "Fracture", "Lung Opacity", "Enlarged Cardiomediastinum"]


def run_of_nih(folder: Path) -> Path:
    """A run by a network that doesn't know four of the findings, with the scores of :func:`ended_run`."""
    ledger = new_ledger(folder)
    list_items(ledger, COUNT)
    scores = [[*some_scores(item)[: -len(UNKNOWN)], *[None] * len(UNKNOWN)] for item in range(COUNT)]
    harvest(ledger, lambda item: reported(item, scores[item]))
    ledger.close()
    return folder


def labels_of_all(path: Path) -> Path:
    with path.open("w", newline="") as file:
        rows = [(f"1.2.3.{number}", *[number % 2] * len(LABELS)) for number in range(COUNT)]
        csv.writer(file).writerows([("sop_instance_uid", *LABELS), *rows])
    return path


@pytest.mark.parametrize("turned", [False, True], ids=["second", "first"])
@pytest.mark.parametrize("language", ["en", "pt-BR"])
def test_a_finding_that_one_run_does_not_know_is_not_compared(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turned: bool, language: str
) -> None:
    monkeypatch.setenv("CXR_LANGUAGE", language)
    runs = [run, run_of_nih(tmp_path / "nih")][:: -1 if turned else 1]
    done = call("compare", *runs, "--labels", labels_of_all(tmp_path / "all.csv"), "--to", tmp_path / "to")
    assert done.exit_code == 0, done.output
    words = "not evaluated" if language == "en" else "não avaliado"
    assert f"{'Fracture':<28} {words}" in done.output
    assert done.output.count(words) == len(UNKNOWN)
    findings = json.loads((tmp_path / "to" / "comparison.json").read_text())["findings"]
    for one in findings:
        known = one["label"] not in UNKNOWN
        assert one["images"] == (COUNT if known else 0)
        for name in ("mean_difference", "largest", "to_present", "to_absent", "auc_difference"):
            assert (one[name] is not None) == known, (one["label"], name)
        if known:
            assert (one["largest"], one["to_present"], one["to_absent"]) == (0, 0, 0)
    page = (tmp_path / "to" / "comparison.html").read_text()
    assert page.count(f"<td>{words}</td>") == len(UNKNOWN)


def test_images_without_a_score_in_one_run_are_left_out(run: Path, tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path / "other")
    list_items(ledger, COUNT)
    scores = [
        [None if item < 40 else some_scores(item)[0] + 0.01, *some_scores(item)[1:]] for item in range(COUNT)
    ]
    harvest(ledger, lambda item: reported(item, scores[item]))
    ledger.close()
    assert call("compare", run, tmp_path / "other").exit_code == 0
    first = json.loads((tmp_path / "other" / "comparison" / "comparison.json").read_text())["findings"][0]
    assert first["images"] == COUNT - 40
    assert first["mean_difference"]["value"] == pytest.approx(0.01)
    assert first["to_absent"] == 0


# -- operating points as a file ------------------------------------------------------------------------------

GOOD = {
    "format": "cxr-backlog operating points 1",
    "model": "m",
    "weights_sha256": "ab" * 32,
    "weights_meaningful": True,
    "preprocessing": "2",
    "points": {"Mass": {"threshold": 0.4}},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "no file of operating points"),
        ({"points": {}}, "holds no operating point"),
        ({"points": {"Gout": {"threshold": 0.4}}}, "'Gout' is no finding"),
        ({"points": {"Mass": {"threshold": 1.0}}}, "between 0 and 1"),
        ({"points": {"Mass": {"threshold": True}}}, "between 0 and 1"),
        ({"points": {"Mass": 0.4}}, "between 0 and 1"),
        ({"points": {"Mass": {"threshold": float("nan")}}}, "between 0 and 1"),
        ({"points": {"Mass": {"threshold": float("inf")}}}, "between 0 and 1"),
        ({"points": {"Mass": {"threshold": "0.4"}}}, "between 0 and 1"),
        ({"points": {"Mass": {"threshold": 1e-9}}}, "nearer to 0 or 1 than scores are told apart"),
        ({"points": {"Mass": {"threshold": 0.99999999}}}, "nearer to 0 or 1 than scores are told apart"),
        ({"points": [["Mass", 0.4]]}, "holds no operating point"),
        ({"points": {"\x1b[2JMass": {"threshold": 0.4}}}, r"'.\[2JMass' is no finding"),
        ({"model": ""}, "for which model"),
        ({"weights_sha256": "56524913dd16"}, "weights_sha256 is no SHA-256"),
        ({"weights_meaningful": "no"}, "whether its weights are seeded"),
        ({"weights_meaningful": None}, "whether its weights are seeded"),
    ],
)
def test_a_damaged_file_of_points_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    from backlog.errors import UsageError

    path = tmp_path / "points.json"
    path.write_text(json.dumps(GOOD))
    assert read_operating_points(path).of("Mass", 0.5) == 0.4
    path.write_text(json.dumps(GOOD | change))
    with pytest.raises(UsageError, match=message):
        read_operating_points(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps(GOOD).replace('"Mass"', '"Mass": {"threshold": 0.9}, "Mass"'), "'Mass' stands twice"),
        ("[" * 200_000, "no JSON"),
        ("", "no JSON"),
        ("finding;threshold\nMass;0,4\n", "no JSON"),
        ("[]", "no file of operating points"),
    ],
    ids=["twice", "deep", "empty", "table", "list"],
)
def test_a_file_of_points_that_was_edited_by_hand_is_refused(
    tmp_path: Path, content: str, message: str
) -> None:
    from backlog.errors import UsageError

    (tmp_path / "points.json").write_text(content)
    with pytest.raises(UsageError, match=message):
        read_operating_points(tmp_path / "points.json")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="a pipe or a device"):
        read_operating_points(tmp_path / "pipe")


def test_proposed_points_are_for_the_runs_own_preprocessing(run: Path, labels: Path) -> None:
    """Found: they were bound to the version of the program that compared, not of the run that was compared."""
    with closing(open_ledger(run, write=True)) as ledger:
        ledger.set("job", ledger.get("job") | {"preprocessing": "1"})
    assert call("validate", run, "--labels", labels, "--propose", "youden").exit_code == 0
    assert read_operating_points(run / "validation" / "operating-points.json").preprocessing == "1"
    assert json.loads((run / "validation" / "validation.json").read_text())["preprocessing"] == "1"


@pytest.mark.parametrize("other", ["model", "preprocessing"])
def test_points_for_other_scores_are_refused(tmp_path: Path, other: str) -> None:
    from backlog.errors import UsageError

    path = tmp_path / "points.json"
    path.write_text(json.dumps(GOOD))
    fitting = {"model": "m", "preprocessing": "2"}
    check_fits(read_operating_points(path), **fitting, path=path)
    with pytest.raises(UsageError, match="are for another"):
        check_fits(read_operating_points(path), **(fitting | {other: "x"}), path=path)
