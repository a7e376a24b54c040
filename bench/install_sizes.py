"""How much each extra installs: ``python -m bench.install_sizes [EXTRA ...]`` prints the table of docs/performance.md.

Builds the wheel and installs it into an empty environment for each, with compiled modules as ``make`` has them. Seconds
are those of installing from packages that were downloaded before.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
#: `dev` is for working on the project, not for using it.
LEFT_OUT: Final = {"dev"}


def extras() -> list[str]:
    """Return the extras that a user may want."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [name for name in project["optional-dependencies"] if name not in LEFT_OUT]


def uv() -> str:
    """Return the installer that ``make`` puts into .venv."""
    return str(Path(sys.executable).with_name("uv"))


def build_wheel(folder: Path) -> Path:
    """Build the wheel into a folder, from a copy: what an earlier build left in the checkout would get into it."""
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for package in ("backlog", "producer", "worker"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([uv(), "build", "--quiet", "--wheel", "--out-dir", str(folder), str(source)], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, extra: str, environment: Path) -> float:
    """Install the wheel with an extra into a new environment; return how many seconds that took."""
    subprocess.run([uv(), "venv", "--quiet", "--python", sys.executable, str(environment)], check=True)
    started = time.monotonic()
    subprocess.run(
        [
            *(uv(), "pip", "install", "--quiet", "--compile-bytecode", "--link-mode=copy"),
            *("--python", str(environment / "bin" / "python"), "--constraint", str(ROOT / "constraints.txt")),
            f"{wheel}[{extra}]" if extra else str(wheel),
        ],
        check=True,
    )
    return time.monotonic() - started


def megabytes(folder: Path) -> float:
    """Return what the files of a folder take, in MB (10⁶ bytes)."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()) / 1e6


def main(wanted: list[str]) -> None:
    print("| extra | installed, MB | seconds |\n|---|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        wheel = build_wheel(Path(folder))
        for extra in wanted or ["", *extras()]:
            environment = Path(folder) / (extra or "none")
            seconds = install(wheel, extra, environment)
            print(
                f"| `cxr-backlog{f'[{extra}]' if extra else ''}` | {megabytes(environment):.0f} | {seconds:.0f} |",
                flush=True,
            )
            shutil.rmtree(environment)


if __name__ == "__main__":
    main(sys.argv[1:])
