"""Score drift: what is large and beyond chance is said, and nothing else."""

from __future__ import annotations

import math
import random
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from backlog.broker.messages import ItemRecord
from backlog.errors import UsageError
from backlog.model import LABELS
from producer.cli.main import main
from producer.ledger.ledger import Ledger
from producer.page import comparison as report_drift
from producer.page import drift
from producer.page.drift import Distribution, Drift, Verdict
from producer.page.page import drift_line, write_page
from producer.page.words import words_of
from tests.support.ended_runs import ended_run, harvest, list_items, new_ledger, reported, some_scores


def scores(count: int, seed: int, mean: float = 0.4, width: float = 0.15) -> list[float]:
    draw = random.Random(seed)
    return [min(1.0, max(0.0, draw.gauss(mean, width))) for _ in range(count)]


def distribution(values: list[float]) -> Distribution:
    held = Distribution()
    for value in values:
        held.add(value)
    return held


def compared(old: list[float], new: list[float]) -> Drift:
    """The first finding of two runs, in which all findings have the same scores."""
    return drift.compare(dict.fromkeys(LABELS, distribution(old)), dict.fromkeys(LABELS, distribution(new)))[
        0
    ]


def psi_of(found: Drift) -> float:
    assert found.psi is not None
    return found.psi


def within_chance(found: Drift) -> bool:
    assert found.ks is not None
    assert found.ks_limit is not None
    return found.ks <= found.ks_limit


@pytest.mark.parametrize("count", [200, 1000, 20_000])
def test_two_samples_of_the_same_scores_have_not_drifted(count: int) -> None:
    found = [compared(scores(count, 2 * seed), scores(count, 2 * seed + 1)) for seed in range(20)]
    assert {one.verdict for one in found} == {Verdict.SAME}


@pytest.mark.parametrize(
    ("shift", "verdict"), [(0.02, Verdict.SAME), (0.06, Verdict.MOVED), (0.15, Verdict.PARTED)]
)
def test_the_larger_the_shift_the_worse_the_verdict(shift: float, verdict: Verdict) -> None:
    assert compared(scores(20_000, 1), scores(20_000, 2, 0.4 + shift)).verdict is verdict


def test_another_width_alone_is_drift_too() -> None:
    assert compared(scores(20_000, 1), scores(20_000, 2, width=0.05)).verdict is Verdict.PARTED


def test_what_chance_can_explain_is_no_drift_despite_a_large_psi() -> None:
    found = [compared(scores(200, seed), scores(200, seed + 500, 0.42)) for seed in range(40)]
    large = [one for one in found if psi_of(one) > drift.MOVED_PSI]
    assert large
    assert all(one.verdict is Verdict.SAME for one in large if within_chance(one))


def test_a_tiny_shift_among_very_many_scores_is_no_drift() -> None:
    found = compared(scores(300_000, 1), scores(300_000, 2, 0.41))
    assert not within_chance(found)
    assert found.verdict is Verdict.SAME


@pytest.mark.parametrize(
    ("old", "new"), [(drift.FEWEST - 1, 5000), (5000, drift.FEWEST - 1), (0, 0), (0, 5000)]
)
def test_of_few_images_nothing_is_said(old: int, new: int) -> None:
    assert compared(scores(old, 1), scores(new, 2, 0.9)).verdict is Verdict.FEW


def test_a_finding_that_nobody_evaluated_is_left_out() -> None:
    """So it is with every network but the default one: the others are compared, and share the chance among them."""
    both = dict.fromkeys(LABELS, distribution(scores(400, 1)))
    before = both | dict.fromkeys(LABELS[14:], Distribution())
    now = both | {LABELS[8]: Distribution()}
    found = drift.compare(before, now)
    left_out = [one for one in found if one.verdict is Verdict.NOT_EVALUATED]
    assert [one.label for one in left_out] == [LABELS[8], *LABELS[14:]]
    assert {(one.psi, one.ks, one.ks_limit) for one in left_out} == {(None, None, None)}
    assert {one.verdict for one in found if one not in left_out} == {Verdict.SAME}
    limits = {one.ks_limit for one in found if one not in left_out}
    assert limits == {drift.ks_limit(400, 400, drift.ALPHA / 13)}
    assert drift.worst(found).verdict is Verdict.SAME


def test_runs_without_images_have_too_few_of_them() -> None:
    found = drift.compare(drift.none_yet(), dict.fromkeys(LABELS, distribution(scores(400, 1))))
    assert {(one.verdict, one.ks_limit) for one in found} == {(Verdict.FEW, None)}
    assert {one.verdict for one in drift.compare(drift.none_yet(), drift.none_yet())} == {Verdict.FEW}


def test_scores_that_are_all_the_same_are_compared_too() -> None:
    assert compared([0.5] * 1000, [0.5] * 1000).verdict is Verdict.SAME
    assert compared([0.5] * 1000, [0.9] * 1000).verdict is Verdict.PARTED
    assert compared([0.5] * 1000, [0.1] * 1000).verdict is Verdict.PARTED
    assert compared([0.1] * 500 + [0.9] * 500, [0.9] * 1000).verdict is Verdict.PARTED


def test_ks_and_its_limit_agree_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for seed in range(10):
        old, new = scores(700, seed), scores(400, seed + 100, 0.43)
        ours = compared(old, new)
        fine = [int(one * drift.FINE) for one in old], [int(one * drift.FINE) for one in new]
        assert ours.ks == pytest.approx(stats.ks_2samp(*fine).statistic, abs=1e-12)
    # The limit is where the asymptotic p-value is the level asked for.
    n, m, alpha = 4000, 3000, 0.01
    limit = drift.ks_limit(n, m, alpha)
    series = 2 * sum(
        (-1) ** (k - 1) * math.exp(-2 * k * k * limit**2 * n * m / (n + m)) for k in range(1, 100)
    )
    assert series == pytest.approx(alpha, rel=1e-3)


def test_psi_agrees_with_its_definition_over_the_tenths_of_both() -> None:
    old, new = scores(50_000, 1), scores(50_000, 2, 0.45)
    edges = np.quantile([*old, *new], np.linspace(0, 1, 11))
    edges[0], edges[-1] = -1, 2
    p, q = (np.histogram(one, edges)[0] / 50_000 for one in (old, new))
    assert compared(old, new).psi == pytest.approx(float(np.sum((q - p) * np.log(q / p))), rel=0.03)


def test_psi_of_two_halves_by_hand() -> None:
    # Shares 1/2, 1/2 against 3/4, 1/4: (1/4) ln(3/2) + (-1/4) ln(1/2).
    found = compared([0.2] * 5000 + [0.8] * 5000, [0.2] * 7500 + [0.8] * 2500)
    assert found.psi == pytest.approx(0.25 * math.log(1.5) + 0.25 * math.log(2), rel=1e-3)


def test_quantiles_mean_and_edges() -> None:
    held = distribution([0.0, 0.1, 0.2, 0.3, 1.0])
    assert (held.size, held.quantile(0.5), held.quantile(1.0)) == (5, 0.2005, 0.9995)
    assert held.mean == pytest.approx(0.32)
    assert (Distribution().mean, Distribution().quantile(0.5)) == (0.0, 0.0)
    assert sum(held.coarse(20)) == 5


def test_two_runs_part_in_the_finding_that_moved(tmp_path: Path) -> None:
    before, now = ended_run(tmp_path / "a", 600), ended_run(tmp_path / "b", 600, seed=1, shift=0.3)
    found = report_drift.compare(now, before, drift.collect(now))
    assert [one.label for one in found.drifts if one.verdict is Verdict.PARTED] == [LABELS[0]]
    assert drift_line(found, words_of("en")) == "The runs part in 1 findings: Atelectasis."
    assert found.same_weights
    assert found.same_engine
    same = report_drift.compare(before, before, drift.collect(before))
    assert drift_line(same, words_of("en")) == "No sign of drift in any of the 18 findings."


NULLS = (8, 14, 15, 16, 17)


def one_of_a_narrow_model(folder: Path, nulls: tuple[int, ...] = NULLS, count: int = 400) -> Ledger:
    """A run of a network that was not trained on all findings."""
    ledger = new_ledger(folder)
    list_items(ledger, count)

    def record(item: int) -> ItemRecord:
        values = [None if k in nulls else score for k, score in enumerate(some_scores(item))]
        return reported(item, values)

    harvest(ledger, record)
    return ledger


def test_the_sentence_speaks_of_what_was_evaluated(tmp_path: Path) -> None:
    narrow = one_of_a_narrow_model(tmp_path / "narrow")
    same = report_drift.compare(narrow, narrow, drift.collect(narrow))
    left_out = "Pneumonia, Lung Lesion, Fracture, Lung Opacity, Enlarged Cardiomediastinum"
    assert drift_line(same, words_of("en")) == (
        f"No sign of drift in any of the 13 findings that both runs evaluated; not evaluated: {left_out}."
    )
    assert "dos 13 achados que as duas execuções avaliaram" in drift_line(same, words_of("pt-BR"))
    other = one_of_a_narrow_model(tmp_path / "other", tuple(k for k in range(18) if k not in NULLS))
    found = report_drift.compare(narrow, other, drift.collect(narrow))
    assert "no finding was evaluated by both runs" in drift_line(found, words_of("en"))
    few = one_of_a_narrow_model(tmp_path / "few", count=20)
    found = report_drift.compare(few, narrow, drift.collect(few))
    assert drift_line(found, words_of("en")) == "Too few images to say: both runs need 200."


@pytest.mark.parametrize(("language", "said"), [("en", "not evaluated"), ("pt-BR", "não avaliado")])
def test_the_page_gives_what_was_not_evaluated_no_number(tmp_path: Path, language: str, said: str) -> None:
    narrow = one_of_a_narrow_model(tmp_path / "narrow")
    write_page(narrow, tmp_path / "summary.html", baseline=narrow, language=language)
    page = (tmp_path / "summary.html").read_text()
    dashes = '<td class="number">0</td>' * 2 + '<td class="number">–</td>' * 3
    assert page.count(f'{dashes}<td class="verdict">{said}</td>') == len(NULLS)
    assert not re.search(r">(inf|nan|None)<", page)


def grouped(folder: Path, shift: float, seed: int) -> Ledger:
    return ended_run(folder, 1200, seed=seed, shift=shift)


def test_drift_at_one_site_is_found_though_the_whole_hides_it(tmp_path: Path) -> None:
    before, now = grouped(tmp_path / "a", 0.0, 0), grouped(tmp_path / "b", 0.0, 1)
    # Among 1200 images of 600 studies, only those of site B are moved.
    with closing(sqlite3.connect(now.path, isolation_level=None)) as database:
        database.execute(
            "UPDATE item SET scores = json_set(scores, '$[0]', min(1.0, json_extract(scores, '$[0]') + 0.2))"
            " WHERE no >= 900"
        )
    table = tmp_path / "sites.csv"
    lines = ["study_instance_uid,group", *(f"1.2.{n},{'B' if n >= 450 else 'A'}" for n in range(600))]
    table.write_text("\n".join([*lines, "9.9.9,elsewhere"]))
    found = report_drift.compare(now, before, drift.collect(now), table)
    assert found.grouping is not None
    groups = found.grouping.groups
    verdicts = {group.name: group.worst.verdict for group in groups}
    assert verdicts == {"A": Verdict.SAME, "B": Verdict.PARTED}
    assert [(group.before, group.now) for group in groups] == [(900, 900), (300, 300)]
    assert groups[1].worst.label == LABELS[0]


@pytest.mark.parametrize(
    "text",
    [
        "study_instance_uid;group\n1.2.0;São João\n",
        'sep=;\n"StudyInstanceUID";"Grupo"\n;\n1.2.0;São João\n',
        "study_instance_uid\tgroup\n1.2.0\tSão João\n",
        "study_instance_uid,group\n1.2.0,São João,,\n1.2.0,São João\n",
    ],
)
def test_a_table_of_groups_is_read_as_excel_writes_it(tmp_path: Path, text: str) -> None:
    run = ended_run(tmp_path / "run", 4)
    (tmp_path / "groups.csv").write_bytes(text.encode("cp1252"))
    found = report_drift.compare(run, run, drift.collect(run), tmp_path / "groups.csv").grouping
    assert found is not None
    assert [(group.name, group.now) for group in found.groups] == [("São João", 2)]
    assert (found.studies, found.images_now) == (1, 2)
    assert "Windows-1252" in found.notes[0]


@pytest.mark.parametrize(
    ("language", "said"), [("en", "None of the 1 studies in the table"), ("pt-BR", "Nenhum dos 1 estudos")]
)
def test_groups_of_other_studies_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, language: str, said: str
) -> None:
    monkeypatch.setenv("CXR_LANGUAGE", language)
    ended_run(tmp_path / "run", 4).close()
    (tmp_path / "groups.csv").write_text("study_instance_uid,group\n9.9.9,A\n")
    words = ["summary", str(tmp_path / "run"), "--baseline", str(tmp_path / "run")]
    done = CliRunner().invoke(main, [*words, "--groups", str(tmp_path / "groups.csv")])
    assert done.exit_code == 0, done.output
    assert said in done.stderr
    assert said in (tmp_path / "run" / "summary.html").read_text()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"uid,site\n1.2,A\n", "study_instance_uid and group"),
        (b"", "no table"),
        (b"study_instance_uid,group\n,\n", "no rows below the header"),
        (
            b"study_instance_uid,group\n1.2,A\n1.3,A\n1.2,B\n",
            "line 4: an earlier line gives this study another group",
        ),
        (b"study_instance_uid,grupo,Group\n1.2,A,B\n", "more than one column of studies or of groups"),
        (b"study_instance_uid,study_uid,group\n1.2,1.3,B\n", "more than one column of studies or of groups"),
        (b"study_instance_uid,group\n1.2,\0\n", "no table of text"),
        (b"study_instance_uid;group\n1,2E+20;A\n", "line 2: study_instance_uid was turned into a number"),
        (
            b"study_instance_uid,group\n" + b"".join(b"1.%d,name %d\n" % (n, n) for n in range(99)),
            "more than 64",
        ),
    ],
)
def test_a_table_of_something_else_is_refused(tmp_path: Path, text: bytes, said: str) -> None:
    run = ended_run(tmp_path / "run", 4)
    (tmp_path / "groups.csv").write_bytes(text)
    with pytest.raises(UsageError, match=said):
        report_drift.compare(run, run, drift.collect(run), tmp_path / "groups.csv")
    with pytest.raises(UsageError, match="can't be read"):
        report_drift.compare(run, run, drift.collect(run), tmp_path / "nowhere.csv")
