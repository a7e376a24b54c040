"""``python -m tests.fuzz [--seconds N] [header|pixels|zip|entry|report|weights ...]``: look for what nobody thought of.

The corpus is kept in ``.fuzz`` and grows from run to run; findings are saved beside it. The end status is 1
where something was found.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.fuzz.paths import PATHS, walk
from tests.fuzz.seeds import write_seeds

_ROOT: Final = Path(__file__).resolve().parents[2]
#: What fuzzes one path.
CHILD: Final = (sys.executable, "-m", "tests.fuzz.child")
#: How many times a child that a codec killed is started again.
_MAX_STARTS: Final = 50


def _saved(findings: Path) -> set[tuple[Path, int]]:
    """Return the saved inputs with their times: what an earlier run found stays until a user removes it."""
    return {(file, file.stat().st_mtime_ns) for file in findings.iterdir() if file.suffix != ".txt"}


def _said(file: Path) -> str:
    """Return what a saved input does."""
    text = file.with_suffix(".txt")
    if text.is_file():
        return text.read_text().splitlines()[0]
    return {"crash": "ends the process", "timeout": "hangs", "oom": "takes too much memory"}.get(
        file.name.partition("-")[0], "fails"
    )


def fuzz(path: str, folder: Path, seconds: int, runs: int = 0, child: Sequence[str] = CHILD) -> set[Path]:
    """Fuzz one path; print what was found, and return the saved inputs.

    Parameters
    ----------
    path
        Of :data:`tests.fuzz.paths.PATHS`.
    folder
        For corpus and findings.
    seconds
        How long, at most.
    runs
        Inputs of one child, at most; 0 for as many as there is time for.
    child
        The command that fuzzes.
    """
    findings = folder / "findings"
    findings.mkdir(parents=True, exist_ok=True)
    (folder / "corpus").mkdir(exist_ok=True)
    seeds = write_seeds(path, folder / "corpus")
    earlier = _saved(findings)
    begun, tried, log = time.monotonic(), 0, folder / "log"
    for _ in range(_MAX_STARTS):
        left = seconds - int(time.monotonic() - begun)
        if left <= 0:
            break
        before = _saved(findings)
        with log.open("wb") as output:
            ended = subprocess.run(
                [*child, path, str(folder), str(left), str(runs)],
                stdout=output,
                stderr=output,
                cwd=_ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                timeout=left + 120,
            )
        count = re.findall(
            r"(?:number_of_executed_units: +|^#)(\d+)", log.read_text("utf-8", "replace"), re.M
        )
        tried += int(count[-1]) if count else 0
        if ended.returncode == 0:
            break
        if _saved(findings) == before:
            raise SystemExit(f"{path}: the harness itself failed; {log} says how")
    new = {file for file, _ in _saved(findings) - earlier}
    print(
        f"{path}: {tried} inputs from {seeds} seeds in {time.monotonic() - begun:.0f} s, {len(new)} found",
        flush=True,
    )
    for file in sorted(new):
        print(f"  {file}: {_said(file)}\n    again: python -m tests.fuzz {path} --replay {file}", flush=True)
    return new


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("path", nargs="*", help=f"{', '.join(PATHS)}; none means all")
    parser.add_argument("--seconds", type=int, default=60, help="for all paths together (60)")
    parser.add_argument("--runs", type=int, default=0, help="inputs of each path at most (no limit)")
    parser.add_argument("--folder", type=Path, default=_ROOT / ".fuzz", help="corpus and findings (.fuzz)")
    parser.add_argument("--replay", type=Path, help="send one saved input down the path, and do nothing else")
    arguments = parser.parse_args()
    chosen = arguments.path or list(PATHS)
    if unknown := [name for name in chosen if name not in PATHS]:
        parser.error(f"no path {', '.join(unknown)}; there are {', '.join(PATHS)}")
    if arguments.replay:
        for path in chosen:
            reason = walk(path, arguments.replay.read_bytes())
            print(f"{path}: {'refused: ' + reason.value if reason else 'passed'}")
        return 0
    if importlib.util.find_spec("atheris") is None:
        print(
            "atheris is not installed: it has wheels for Linux on x86-64 and Python 3.11 to 3.13",
            file=sys.stderr,
        )
        return 2
    each = max(1, arguments.seconds // len(chosen))
    found = [
        file
        for path in chosen
        for file in fuzz(path, (arguments.folder / path).resolve(), each, arguments.runs)
    ]
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
