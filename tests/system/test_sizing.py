"""The sizing table: its arithmetic, and that the document shows what the script prints."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest

from bench.sizing import Costs, main, need
from tests.support.servers import ROOT

SIZING = (ROOT / "docs" / "scaling.md").read_text()


def test_the_document_shows_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    shown = re.search(r"<!-- python -m bench.sizing -->\n(.*)\n<!-- end -->", SIZING, re.DOTALL)
    assert shown
    assert shown[1].strip() == capsys.readouterr().out.strip()


def test_the_document_names_every_cpu_cost() -> None:
    given = re.search(r"\| cost of one image .*?\n\n", SIZING, re.DOTALL)
    assert given
    numbers = re.findall(r"\| ([\d.; ]+) \|", given[0])
    named = sorted(float(one) for cell in numbers for one in cell.split(";"))
    assert named == sorted(getattr(Costs(), one.name) for one in fields(Costs) if one.name.endswith("_ms"))


def test_needs_are_costs_times_rate() -> None:
    costs = Costs(
        fetch_client_ms=0, pixels_ms=0, forward_ms=500, store_ms=100, fetch_ms=50, store_report_ms=50
    )
    seen = need(864_000, costs, hours=24, load=0.5, in_flight=1000)  # ten a second
    assert seen.rate == 10
    assert seen.inference_workers == 10  # 10/s of 0.5 s are 5 cores, at half load 10
    assert seen.orthanc_cores == pytest.approx(4)
    assert seen.gigabits == pytest.approx(10 * (10 + 10 + 0.05) * 8 / 1000)
    assert seen.terabytes == pytest.approx(8.64)
    assert seen.run_gigabytes == pytest.approx(1.47, abs=0.01)
    assert seen.redis_megabytes == pytest.approx(0.6)


def test_shared_storage_spares_orthanc_and_the_network(capsys: pytest.CaptureFixture[str]) -> None:
    rows = []
    for words in (["1000000"], ["1000000", "--shared-storage"]):
        main(words)
        rows.append([cell.strip() for cell in capsys.readouterr().out.splitlines()[-1].split("|")])
    over_rest, directly = rows
    assert float(directly[6]) < float(over_rest[6])
    assert float(directly[7]) == pytest.approx(float(over_rest[7]) / 2, abs=0.01)


@pytest.mark.parametrize("words", [["0"], ["100", "--hours", "25"], ["100", "--load", "0"]])
def test_nonsense_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(words)
    assert "load above 0" in capsys.readouterr().err
