"""Print what an image needs installed, one requirement a line: ``python requirements.py [EXTRA ...]``.

The packages are installed before the project's own files are copied, so that a change of the code rebuilds a
small layer only. Reads the ``pyproject.toml`` of the working directory; needs the standard library only.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def requirements(extras: list[str], project: dict[str, object]) -> list[str]:
    """Return the project's own requirements, then those of the extras.

    Raises
    ------
    KeyError
        There is no such extra.
    """
    base, optional = project["dependencies"], project["optional-dependencies"]
    assert isinstance(base, list)  # noqa: S101  # what the standard says of pyproject.toml
    assert isinstance(optional, dict)  # noqa: S101
    own = f"{project['name']}["  # one extra may include others
    lines: list[str] = [*base]
    waiting = [*extras]
    for extra in waiting:
        for line in optional[extra]:
            if line.startswith(own):
                waiting += line.removeprefix(own).removesuffix("]").split(",")
            else:
                lines.append(line)
    return list(dict.fromkeys(lines))


if __name__ == "__main__":
    _project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    sys.stdout.writelines(f"{line}\n" for line in requirements(sys.argv[1:], _project))
