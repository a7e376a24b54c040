"""What the Makefile asks scripts for."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.servers import ROOT


@pytest.mark.parametrize(
    ("cores", "gigabytes", "processes"), [(2, 24, 6), (2, 6, 4), (1, 24, 3), (16, 24, 17), (2, 1, 2)]
)
def test_tests_have_the_processes_that_a_machine_bears(
    tmp_path: Path, cores: int, gigabytes: int, processes: int
) -> None:
    free = int(gigabytes * 1e6 / 1.4e6)
    assert asked(tmp_path, nproc=f"echo {cores}", awk=f"echo {free}") == processes


def test_a_machine_that_does_not_tell_its_memory_has_a_number(tmp_path: Path) -> None:
    assert asked(tmp_path, nproc="exit 1", awk="exit 2") == 6


def asked(folder: Path, **programs: str) -> int:
    for name, line in programs.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)
    done = subprocess.run(
        [ROOT / "scripts/test-processes"],
        env={"PATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)
