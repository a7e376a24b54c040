"""The wheel in an empty environment, away from the checkout: what the two commands of the README install and do."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from bench.install_sizes import build_wheel, install, megabytes, uv
from tests.support.dicom_images import chest, dicom

#: What a machine that only scores on its CPU doesn't need.
HEAVY = (
    "torch",
    "torchvision",
    "torchxrayvision",
    "onnx",
    "scipy",
    "pandas",
    "pyarrow",
    "highdicom",
    "skimage",
)
#: Of the environment that `make demo` makes, in MB.
LARGEST_LOCAL = 450


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not Path(uv()).is_file():
        pytest.skip("uv is not installed here: `make test` installs it")
    return build_wheel(tmp_path_factory.mktemp("wheel"))


def installed(wheel: Path, extra: str, folder: Path) -> Path:
    """Install the wheel; skip where no package index is reachable."""
    try:
        install(wheel, extra, folder)
    except subprocess.CalledProcessError:
        if os.environ.get("CI"):
            raise
        pytest.skip("the packages can't be installed here: is a package index reachable?")
    return folder


def run(environment: Path, *command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program of the environment with an empty home, where nothing of this checkout can be found."""
    return subprocess.run(
        [str(environment / "bin" / command[0]), *command[1:]],
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "HOME": str(cwd), "CXR_WEIGHTS": "seeded"},
        capture_output=True,
        text=True,
        timeout=280,
    )


def importable(environment: Path, names: tuple[str, ...], cwd: Path) -> list[str]:
    code = f"import importlib.util as u; print(*(n for n in {names} if u.find_spec(n)))"
    return run(environment, "python", "-c", code, cwd=cwd).stdout.split()


@pytest.fixture(scope="module")
def local(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed(wheel, "local", tmp_path_factory.mktemp("local") / "environment")


def test_the_local_extra_is_small_and_without_torch(local: Path, tmp_path: Path) -> None:
    assert megabytes(local) <= LARGEST_LOCAL
    assert importable(local, HEAVY, tmp_path) == []
    assert importable(local, ("onnxruntime", "numpy"), tmp_path) == ["onnxruntime", "numpy"]


def test_the_demo_runs_from_a_wheel_alone(local: Path, tmp_path: Path) -> None:
    done = run(local, "cxr-backlog", "demo", "--out", str(tmp_path / "demo"), "--count", "6", cwd=tmp_path)
    assert done.returncode in (0, 3), (
        done.stdout + done.stderr
    )  # a few of its images can't be scored, on purpose
    assert (tmp_path / "demo" / "run" / "scores.csv").read_text().count("\n") > 3
    assert (tmp_path / "demo" / "run" / "summary.html").is_file()


def test_preparing_the_model_takes_little_memory(local: Path, tmp_path: Path) -> None:
    code = (
        "import resource, runpy, sys; sys.argv = ['prepare']\n"
        "runpy.run_module('worker.prepare', run_name='__main__')\n"
        # getrusage would count what the parent held when it forked.
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    done = run(local, "python", "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout.split("VmHWM:")[1].split()[0]) / 1024
    assert peak <= 400


def test_the_producer_alone_plans_and_names_what_it_lacks(wheel: Path, tmp_path: Path) -> None:
    environment = installed(wheel, "", tmp_path / "environment")
    assert importable(environment, (*HEAVY, "numpy", "onnxruntime", "matplotlib"), tmp_path) == []
    with zipfile.ZipFile(tmp_path / "backlog.zip", "w") as archive:
        archive.writestr("a.dcm", dicom(chest(64, 64)))
    plan = run(environment, "cxr-backlog", "plan", "backlog.zip", cwd=tmp_path)
    assert plan.returncode == 0, plan.stderr
    assert "To score  1" in plan.stdout
    refused = run(environment, "cxr-backlog", "demo", cwd=tmp_path)
    assert refused.returncode == 2
    assert "install cxr-backlog[local]" in refused.stderr
    shutil.rmtree(environment)
