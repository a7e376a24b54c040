"""The audit: a line for each effect, none lost and none doubled, and every tampering named."""

from __future__ import annotations

import hashlib
import itertools
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from backlog.errors import StorageFull, UsageError
from backlog.outcomes import Reason
from backlog.pacs.address import without_password
from producer.cli.main import main
from producer.ledger.ledger import Ledger
from producer.results import audit_chain, audit_log
from producer.results.audit_chain import GENESIS
from producer.results.audit_log import Audit, verify
from tests.support.ended_runs import (
    ended_run,
    harvest,
    list_items,
    new_ledger,
    rejected,
    reported,
    some_scores,
)
from tests.support.servers import ROOT

COUNT = 40


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    held = ended_run(tmp_path, COUNT)
    yield held
    held.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def written(ledger: Ledger, path: Path) -> list[dict[str, object]]:
    with Audit(ledger, path) as audit:
        audit.catch_up(durable=True)
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_stored_report_has_one_line_with_all_its_facts(ledger: Ledger, path: Path) -> None:
    lines = written(ledger, path)
    assert [line["item"] for line in lines] == list(range(COUNT))
    first = lines[0]
    assert first == {
        "seq": 1,
        "time": "2026-09-21T14:13:21.000+00:00",
        "effect": "report.stored",
        "item": 0,
        "chunk": 1,
        "engine": "onnxruntime",
        "sop_instance_uid": "1.2.3.0",
        "study_instance_uid": "1.2.0",
        "sr_sop_instance_uid": "2.25.0",
        "sr_instance": "00000000-11111111-00000000-00000000-00000000",
        "sr_sha256": "0" * 64,
        "run": "20260101000000-abcdef",
        "pacs": str(path.parent / "pacs"),
        "model": "densenet121-res224-all",
        "weights_sha256": "ab" * 32,
        "weights_meaningful": True,
        "prev": GENESIS,
    }


def test_each_line_holds_the_hash_of_the_one_before(ledger: Ledger, path: Path) -> None:
    written(ledger, path)
    raw = path.read_bytes().splitlines()
    for before, after in itertools.pairwise(raw):
        assert json.loads(after)["prev"] == hashlib.sha256(before).hexdigest()
    verdict = verify(ledger, path)
    assert verdict.right
    assert verdict.head.seq == COUNT
    assert verdict.head.hash == hashlib.sha256(raw[-1]).hexdigest()


def test_a_second_harvest_adds_no_line(tmp_path: Path, path: Path) -> None:
    ledger = new_ledger(tmp_path)
    list_items(ledger, 3)
    (chunk,) = ledger.waiting(1)
    for _ in range(2):
        ledger.harvest([(chunk, {i: reported(i, some_scores(i)) for i in range(3)})])
        lines = written(ledger, path)
    assert [line["item"] for line in lines] == [0, 1, 2]
    assert verify(ledger, path).right


def test_only_stored_reports_have_a_line(tmp_path: Path, path: Path) -> None:
    ledger = new_ledger(tmp_path)
    list_items(ledger, 4)
    same = {"instance": "the-same"}
    records = {
        0: reported(0, some_scores(0), **same),
        1: reported(1, some_scores(1), **same),
        2: rejected(Reason.LATERAL),
        3: rejected(Reason.BLANK),
    }
    harvest(ledger, records.__getitem__)
    assert [line["item"] for line in written(ledger, path)] == [0]


def test_a_report_of_an_earlier_run_is_found_not_stored(tmp_path: Path, path: Path) -> None:
    ledger = new_ledger(tmp_path)
    list_items(ledger, 1)
    harvest(ledger, lambda item: reported(item, some_scores(item), sr_ours=False))
    assert [line["effect"] for line in written(ledger, path)] == ["report.found"]


def test_a_retraction_is_a_line_of_its_own(ledger: Ledger, path: Path) -> None:
    written(ledger, path)
    ledger.retract([(7, "2.25.7", True)])
    ledger.retract([(7, "2.25.7", False)])  # asked for again
    ledger.retract([(8, "2.25.8", False)])  # was gone already: no effect
    last = written(ledger, path)[COUNT:]
    assert [(line["effect"], line["item"]) for line in last] == [("report.retracted", 7)]
    assert verify(ledger, path).right


def test_a_crash_between_ledger_and_audit_keeps_each_line_once(tmp_path: Path, path: Path) -> None:
    whole, torn = tmp_path / "whole.jsonl", path
    ledger = new_ledger(tmp_path)
    list_items(ledger, COUNT)
    with Audit(ledger, whole) as audit:
        while ledger.waiting(1):
            harvest(ledger, lambda item: reported(item, some_scores(item)), chunks=1)
            audit.catch_up()
            with Audit(ledger, torn):
                pass  # a producer that dies before it writes
    with Audit(ledger, torn) as audit:
        assert audit.catch_up() == COUNT
        assert audit.catch_up() == 0
    assert torn.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("cut", [1, 2, 100, 700])
def test_a_torn_end_is_written_again(ledger: Ledger, path: Path, cut: int) -> None:
    written(ledger, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert not verify(ledger, path).right
    with Audit(ledger, path) as audit:
        assert audit.damaged is None
        audit.catch_up()
    assert path.read_bytes() == whole


@pytest.mark.parametrize("rest", [b'{"seq":41,"time":"2026', bytes(5000)])
def test_what_a_crash_left_behind_the_last_line_is_cut_off(ledger: Ledger, path: Path, rest: bytes) -> None:
    written(ledger, path)
    whole = path.read_bytes()
    path.write_bytes(whole + rest)
    written(ledger, path)
    assert path.read_bytes() == whole


def test_zeros_that_a_power_cut_left_are_written_again(ledger: Ledger, path: Path) -> None:
    written(ledger, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-4096] + bytes(4096))
    written(ledger, path)
    assert path.read_bytes() == whole


def rechained(raw: list[bytes]) -> list[bytes]:
    """Make a chain of lines good again, as a forger would."""
    before, lines = GENESIS, []
    for number, line in enumerate(raw, 1):
        said = json.loads(line) | {"seq": number, "prev": before}
        lines.append(json.dumps(said, separators=(",", ":")).encode())
        before = hashlib.sha256(lines[-1]).hexdigest()
    return lines


def changed(raw: list[bytes]) -> list[bytes]:
    return [*raw[:9], raw[9].replace(b'"item":9', b'"item":8'), *raw[10:]]


TAMPERINGS: dict[str, tuple[Callable[[list[bytes]], list[bytes]], int]] = {
    "a value was changed": (changed, 10),
    "a line was dropped": (lambda raw: raw[:9] + raw[10:], 10),
    "two lines changed places": (lambda raw: [*raw[:9], raw[10], raw[9], *raw[11:]], 10),
    "a line was doubled": (lambda raw: [*raw[:10], *raw[9:]], 11),
    "the first line is gone": (lambda raw: raw[1:], 1),
    "the end is gone": (lambda raw: raw[:-3], COUNT - 2),
    "a line is no JSON": (lambda raw: [*raw[:9], b"hello", *raw[10:]], 10),
    "a line is nested a million deep": (lambda raw: [*raw[:9], b"[" * 60_000, *raw[10:]], 10),
    "a line is a list": (lambda raw: [*raw[:9], b"[1]", *raw[10:]], 10),
    "everything is gone": (lambda _: [], 1),
    "a value was changed and the chain made good": (lambda raw: rechained(changed(raw)), 10),
    "a line was dropped and the chain made good": (lambda raw: rechained(raw[:9] + raw[10:]), 10),
    "a line was added and the chain made good": (lambda raw: rechained([*raw, raw[-1]]), COUNT + 1),
}


@pytest.mark.parametrize("what", TAMPERINGS)
def test_verify_names_the_first_wrong_line(ledger: Ledger, path: Path, what: str) -> None:
    written(ledger, path)
    tamper, first = TAMPERINGS[what]
    path.write_bytes(b"".join(line + b"\n" for line in tamper(path.read_bytes().splitlines())))
    verdict = verify(ledger, path)
    assert verdict.broken == first, verdict
    assert verdict.why
    assert verdict.head.seq == first - 1


def test_a_file_that_nobody_touched_is_not_read_again(
    ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten million lines took a minute before a run went on."""
    with Audit(ledger, path) as audit:
        audit.catch_up()
        head = audit.head
    whole = path.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(audit_log, "links", None)
        with Audit(ledger, path) as audit:
            assert audit.head == head
            assert audit.catch_up() == 0
    assert path.read_bytes() == whole
    path.write_bytes(whole.replace(b"report.stored", b"report.stOred", 1))  # of the same size
    with Audit(ledger, path) as audit:
        assert audit.damaged is not None


def killed_after_catching_up(ledger: Ledger, path: Path) -> None:
    """Have a process write the audit with a mark every seven lines, and die before it can close it."""
    program = """
import os, sys
from pathlib import Path
from producer.ledger.ledger import Ledger
from producer.results import audit_log
audit_log.MARK_EVERY = 7
audit_log.Audit(Ledger(Path(sys.argv[1]), write=True), Path(sys.argv[2])).catch_up()
os.kill(os.getpid(), 9)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(ledger.path), str(path)], cwd=ROOT, check=False, timeout=60
    )
    assert done.returncode == -9


def test_after_a_kill_only_what_follows_the_last_mark_is_read(
    ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_log, "MARK_EVERY", 7)
    killed_after_catching_up(ledger, path)
    head, whole = verify(ledger, path).head, path.read_bytes()
    path.write_bytes(whole[:-7])  # torn in its last line
    followed: list[int] = []
    links = audit_chain.links

    def counted(*arguments: Any) -> Iterator[Any]:
        for one in links(*arguments):
            followed.append(1)
            yield one

    monkeypatch.setattr(audit_log, "links", counted)
    with Audit(ledger, path) as audit:
        assert len(followed) <= 7 < COUNT
        assert audit.catch_up() == 1
        assert audit.head == head
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[: len(raw) // 4], lambda raw: raw[: len(raw) // 4] + b"\nscribble\n" * COUNT]
)
def test_a_mark_that_the_file_does_not_hold_counts_for_nothing(
    ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr(audit_log, "MARK_EVERY", 7)
    killed_after_catching_up(ledger, path)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    with Audit(ledger, path) as audit:
        audit.catch_up()
    assert path.read_bytes() == whole


def test_a_damaged_middle_is_kept_aside_and_written_again(ledger: Ledger, path: Path) -> None:
    written(ledger, path)
    whole = path.read_bytes()
    raw = whole.splitlines(keepends=True)
    path.write_bytes(b"".join([*raw[:5], b"scribble\n", *raw[6:]]))
    with Audit(ledger, path) as audit:
        assert audit.damaged is not None
        assert audit.damaged.read_bytes() == b"".join([b"scribble\n", *raw[6:]])
        assert audit.catch_up() == COUNT - 5
    assert path.read_bytes() == whole
    path.write_bytes(b"again\n")
    with Audit(ledger, path) as audit:
        assert audit.damaged is not None
        assert audit.damaged.name == "audit.jsonl.damaged-2"


def test_a_noted_head_shows_that_all_was_written_anew(tmp_path: Path, path: Path) -> None:
    ledger = new_ledger(tmp_path)
    list_items(ledger, COUNT)
    harvest(ledger, lambda item: reported(item, some_scores(item)), chunks=1)
    with Audit(ledger, path) as audit:
        audit.catch_up()
        noted = audit.head.hash
        harvest(ledger, lambda item: reported(item, some_scores(item)))
        audit.catch_up()
    assert verify(ledger, path, noted).right
    verdict = verify(ledger, path, "f" * 64)
    assert not verdict.right
    assert "anew" in verdict.why


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """A disk that is full: a write beyond the limit fails as there (setrlimit(2), RLIMIT_FSIZE)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_after_a_full_disk_it_goes_on_from_the_last_whole_line(
    ledger: Ledger, path: Path, tmp_path: Path
) -> None:
    written(ledger, tmp_path / "whole.jsonl")
    whole = (tmp_path / "whole.jsonl").read_bytes()
    with Audit(ledger, path) as audit:
        with files_no_larger_than(len(whole) // 2), pytest.raises(StorageFull, match="can't be written"):
            audit.catch_up()
        assert 0 < audit.head.seq < COUNT
        audit.catch_up()
    assert path.read_bytes() == whole


def test_no_audit_at_all_is_said(ledger: Ledger, path: Path) -> None:
    with pytest.raises(UsageError, match="can't be read"):
        verify(ledger, path)


def test_a_password_in_the_address_of_the_pacs_is_left_out(tmp_path: Path, path: Path) -> None:
    ledger = ended_run(tmp_path, 1, pacs="http://me:secret@pacs:8042/x")
    assert written(ledger, path)[0]["pacs"] == "http://pacs:8042/x"
    assert without_password("/a/folder@home") == "/a/folder@home"


def test_the_command_names_the_wrong_line_and_fails(ledger: Ledger, path: Path, tmp_path: Path) -> None:
    written(ledger, path)
    good = CliRunner().invoke(main, ["audit", "verify", str(tmp_path)])
    assert good.exit_code == 0
    head = good.output.split()[-1]
    assert CliRunner().invoke(main, ["audit", "verify", str(tmp_path), "--head", head]).exit_code == 0
    path.write_bytes(path.read_bytes().replace(b'"item":9', b'"item":8'))
    bad = CliRunner().invoke(main, ["audit", "verify", str(tmp_path)])
    assert bad.exit_code == 1
    assert "WRONG     line 10" in bad.output
