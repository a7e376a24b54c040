"""Take out of an environment what no image runs: ``python slim.py /venv``.

Three things, which are a third of what an image with decoders adds to its base. Packages bring their own tests. They
bring parts that nothing here imports. And a wheel can hold no links, so that GDCM's has each of its libraries three
times, once under each of its names. Needs the standard library only.
"""

from __future__ import annotations

import filecmp
import shutil
import sys
from pathlib import Path

#: Packages whose tests nothing else of them imports.
TESTED = ("numpy", "matplotlib", "mpl_toolkits", "openjpeg", "rle", "jpeg_ls")


#: What else nothing here imports: as it lies in site-packages, and why it may go.
UNUSED = {
    "pydicom/data/test_files": "images for pydicom's own tests",
    "pydicom/sr": "concepts for writing SR by pydicom; worker/sr writes its own",
    "pygments": "rich, prompt_toolkit and Celery colour source code with it, when they are asked to",
    "markdown_it": "rich reads Markdown with it, when it is asked to",
    "numpy/f2py": "compiles Fortran",
    "numpy/_core/include": "for compilers",
    "numpy/_core/lib": "for compilers",
    "numpy/_core/_*_tests.*.so": "for NumPy's tests",
    "numpy/_core/_simd.*.so": "for NumPy's tests",
    "_gdcm/XML": "DICOM's tables of attributes and modules, for GDCM's validator",
    "PIL/_avif.*.so": "a codec; PNG and JPEG are read, and no others",
    "PIL/_webp.*.so": "a codec",
    "PIL/_imagingcms.*.so": "colour profiles",
    "PIL/_imagingtk.*.so": "Tk",
    "pillow.libs/libavif-*": "of the codec",
    "pillow.libs/libwebp*": "of the codec",
    "pillow.libs/libsharpyuv-*": "of the codec",
    "pillow.libs/liblcms2-*": "of the colour profiles",
    "reportlab/graphics": "charts and bar codes",
    "reportlab/fonts/*.pfb": "fonts for pictures of charts",
    "reportlab/fonts/*.sfd": "a font's source",
}


def remove_unused(packages: Path) -> None:
    """Remove what stands in :data:`UNUSED`."""
    for pattern in UNUSED:
        for path in [*packages.glob(pattern)]:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


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
        remove_unused(_packages)
        link_copies(_packages)
