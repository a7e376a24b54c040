"""deploy/slim.py, which every image's packages go through: what is taken out is missed by nobody."""

from __future__ import annotations

import importlib.util
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.servers import ROOT

UNUSED: dict[str, str] = runpy.run_path(str(ROOT / "deploy" / "slim.py"))["UNUSED"]

#: Of a decoder's image. GDCM's Python module and its libraries lie side by side.
PACKAGES = (
    *("numpy", "numpy.libs", "_gdcm", "gdcm.py", "python_gdcm.libs", "*openjpeg*", "*rle*", "pydicom*"),
    *("PIL", "pillow.libs", "reportlab*", "charset_normalizer", "typing_extensions.py"),
)

#: Loads every decoder, and lets NumPy, GDCM, Pillow and reportlab work.
USE = """
import io, sys, zlib  # zlib before GDCM, whose own would take its place
import gdcm, numpy, openjpeg, PIL, pydicom, reportlab, rle
used = (gdcm, numpy, openjpeg, PIL, pydicom, reportlab, rle)
assert all(module.__file__.startswith(sys.argv[1]) for module in used)
from PIL import Image, ImageDraw, ImageFont
fonts = reportlab.__path__[0] + "/fonts/"
assert open(fonts + "bitstream-vera-license.txt").read()
for form in ("PNG", "JPEG"):
    picture = Image.new("L", (64, 64))
    ImageDraw.Draw(picture).text((0, 0), "A", font=ImageFont.truetype(fonts + "Vera.ttf", 20), fill=255)
    picture.save(file := io.BytesIO(), form)
    assert Image.open(file, formats=("PNG", "JPEG")).getextrema()[1] > 200
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.platypus import Paragraph, SimpleDocTemplate, Table
from reportlab.lib.styles import ParagraphStyle
pdfmetrics.registerFont(TTFont("Vera", fonts + "Vera.ttf"))
style = ParagraphStyle("plain", fontName="Vera")
SimpleDocTemplate(file := io.BytesIO()).build([Paragraph("x", style), Table([["y"]])])
assert file.getvalue().startswith(b"%PDF")
assert numpy.linalg.inv(numpy.eye(3)).sum() == 3
codec = gdcm.JPEGCodec()
assert codec.CanDecode(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
assert gdcm.ImageReader().Read() is False
"""


def size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A part of this environment, copied: nothing in it may be changed."""
    found = importlib.util.find_spec("numpy")
    assert found is not None
    assert found.origin is not None
    source = Path(found.origin).parents[1]
    target = tmp_path / "lib" / "python3.99" / "site-packages"
    target.mkdir(parents=True)
    for pattern in PACKAGES:
        for path in source.glob(pattern):
            copy = shutil.copytree if path.is_dir() else shutil.copy2
            copy(path, target / path.name)
    return tmp_path


def test_a_slim_environment_decodes_and_is_smaller(environment: Path) -> None:
    before = size(environment)
    packages = environment / "lib" / "python3.99" / "site-packages"
    for _ in range(2):  # a second time there is nothing to do
        subprocess.run([sys.executable, ROOT / "deploy/slim.py", environment], check=True)
    assert not [*packages.rglob("tests")]
    links = [path for path in (packages / "_gdcm").iterdir() if path.is_symlink()]
    assert len(links) >= 20
    assert all(link.resolve(strict=True).parent == packages / "_gdcm" for link in links)
    assert before - size(environment) > 50e6
    code = f"import sys; sys.path.insert(0, {str(packages)!r})\n{USE}"
    command = [sys.executable, "-S", "-c", code, str(packages)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


#: Imports every module of ours that an image runs, and prints what came along.
IMPORT_ALL = """
import importlib, pkgutil, sys
for elsewhere in ("torch", "torchxrayvision", "sklearn", "scipy", "pandas", "skimage"):
    sys.modules[elsewhere] = None  # in no image, or in that for GPUs alone
import backlog, producer, worker
for package in (backlog, producer, worker):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            try:
                importlib.import_module(module.name)
            except ImportError as error:
                assert sys.modules.get((error.name or "").partition(".")[0], 0) is None, error
import celery.bin.worker, click_repl
print(*sys.modules)
"""


def test_what_is_taken_out_is_imported_by_nothing() -> None:
    """Left out is what Celery and Pillow import where it is there, and go without where it isn't."""
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = {*done.stdout.split()}
    assert {"worker.tasks.report", "worker.derived.pdf", "reportlab.platypus", "PIL.ImageFont"} <= loaded
    parts = [pattern.partition(".")[0].replace("/", ".") for pattern in UNUSED]
    taken = [one for one in parts if "*" not in one and not one.startswith(("pygments", "PIL"))]
    assert len(taken) >= 7
    assert not [module for module in loaded if module.startswith(tuple(f"{one}." for one in taken))]
    assert not loaded & {*taken}


def test_libraries_of_other_content_are_left_apart(tmp_path: Path) -> None:
    packages = tmp_path / "lib" / "python3.99" / "site-packages"
    for name, content in {"a/x.so": b"1", "a/x.so.2": b"1", "a/y.so": b"2", "b/x.so": b"1"}.items():
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_bytes(content)
    (packages / "c").mkdir()
    (packages / "c" / "tests").mkdir()  # of a package that may need them
    subprocess.run([sys.executable, ROOT / "deploy/slim.py", tmp_path], check=True)
    assert (packages / "a" / "x.so").readlink() == Path("x.so.2")
    assert not (packages / "a" / "y.so").is_symlink()
    assert not (packages / "b" / "x.so").is_symlink()  # nothing is linked from one folder into another
    assert (packages / "c" / "tests").is_dir()
