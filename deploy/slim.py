"""Take out of an environment what no image runs: ``python slim.py /venv``.

Two things, which are a fifth of what an image with decoders adds to its base. Packages bring their own tests. And a
wheel can hold no links, so that GDCM's has each of its libraries three times, once under each of its names.
Needs the standard library only.
"""

from __future__ import annotations

import filecmp
import shutil
import sys
from pathlib import Path

#: Packages whose tests nothing else of them imports.
TESTED = ("numpy", "matplotlib", "mpl_toolkits", "openjpeg", "rle", "jpeg_ls")


def remove_tests(packages: Path) -> None:
    """Remove the folders named ``tests`` of the packages that are known not to need them."""
    for name in TESTED:
        for folder in [*(packages / name).rglob("tests")]:
            if folder.is_dir():
                shutil.rmtree(folder)


def link_copies(packages: Path) -> None:
    """Leave one file of each shared library, under its longest name, and links to it under the others."""
    alike: dict[tuple[Path, int], list[Path]] = {}
    for path in packages.rglob("*.so*"):
        if path.is_file() and not path.is_symlink():
            alike.setdefault((path.parent, path.stat().st_size), []).append(path)
    for paths in alike.values():
        paths.sort(key=lambda path: (-len(path.name), path.name))
        for number, path in enumerate(paths):
            same = (one for one in paths[:number] if filecmp.cmp(one, path, shallow=False))
            if first := next(same, None):
                path.unlink()
                path.symlink_to(first.name)


if __name__ == "__main__":
    for _packages in Path(sys.argv[1]).glob("lib/python3*/site-packages"):
        remove_tests(_packages)
        link_copies(_packages)
