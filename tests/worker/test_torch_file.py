"""PyTorch's files without PyTorch: the same tensors, and nothing that a file names is run."""

from __future__ import annotations

import collections
import io
import pickle
import random
import resource
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.torch_files import (
    bombs,
    hostile_pickles,
    legacy_container,
    tensor_file,
    tensor_pickle,
    zip_container,
)
from worker.model.torch_file import read_torch_file
from worker.model.torch_pickle import NotATorchFile

ROOT = Path(__file__).resolve().parents[2]
CONTAINERS: dict[str, Any] = {
    "legacy": legacy_container,
    "zip": zip_container,
    "bare": lambda pickled: pickled,
}


def saved(content: object, *, legacy: bool) -> bytes:
    """What PyTorch itself writes."""
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def tensors() -> dict[str, Any]:
    """Tensors of every kind that is read, and every kind of view."""
    import torch

    base = torch.arange(24, dtype=torch.float32)
    return {
        "whole": base,
        "reshaped": base.reshape(2, 3, 4),
        "transposed": base.reshape(4, 6).t(),
        "part": base[5:9],
        "every third": base[::3],
        "scalar": torch.tensor(7),
        "none": torch.zeros(0, 3),
        "wide": torch.ones(1).expand(1, 1),
        "double": base.double(),
        "half": base.half(),
        "bytes": base.to(torch.uint8),
        "shorts": base.to(torch.int16),
        "flags": base > 3,
        "parameter": torch.nn.Parameter(base.clone()),
    }


# --- what PyTorch writes --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("legacy", [True, False], ids=["legacy", "zip"])
@pytest.mark.parametrize("ordered", [True, False])
def test_a_state_dict_has_the_tensors_that_pytorch_saved(legacy: bool, ordered: bool) -> None:
    expected = tensors()
    content = collections.OrderedDict(expected) if ordered else expected
    found = read_torch_file(saved(content, legacy=legacy))
    assert found.kind == "a state dict"
    assert list(found.tensors) == list(expected)
    for name, tensor in expected.items():
        ours = found.tensors[name]
        theirs = tensor.detach().numpy()
        assert ours.dtype == theirs.dtype, name
        assert ours.shape == theirs.shape, name
        assert np.array_equal(ours, theirs), name


@pytest.mark.slow
@pytest.mark.parametrize("legacy", [True, False], ids=["legacy", "zip"])
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code:UserWarning")
def test_a_pickled_module_has_the_tensors_of_its_state_dict(legacy: bool) -> None:
    import torch

    model = torch.nn.Sequential(
        collections.OrderedDict(
            first=torch.nn.Conv2d(1, 3, 3, bias=False),
            norm=torch.nn.BatchNorm2d(3),
            inner=torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()),
        )
    )
    model.register_buffer("kept", torch.arange(3))
    model.register_buffer("left out", torch.arange(3), persistent=False)
    model.register_buffer("empty", None)
    found = read_torch_file(saved(model, legacy=legacy))
    assert found.kind == "a pickled torch.nn.modules.container.Sequential"
    expected = model.state_dict()
    assert list(found.tensors) == list(expected)
    for name, tensor in expected.items():
        assert np.array_equal(found.tensors[name], tensor.numpy()), name


def test_the_tensors_can_not_be_written_to() -> None:
    found = read_torch_file(tensor_file(0, (4,), (1,)))
    with pytest.raises(ValueError, match="read-only"):
        found.tensors["w"][0] = 1


# --- views stay within their storage --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        ((1, (3,), (1,)), [1, 2, 3]),
        ((0, (2, 2), (1, 2)), [[0, 2], [1, 3]]),
        ((3, (), ()), 3),
        ((4, (0,), (1,)), []),
    ],
)
def test_a_view_within_its_storage_is_read(view: tuple[Any, Any, Any], expected: object) -> None:
    assert read_torch_file(tensor_file(*view)).tensors["w"].tolist() == expected


@pytest.mark.parametrize(
    "view",
    [
        *((0, (5,), (1,)), (2, (3,), (1,)), (-1, (2,), (1,)), (0, (2,), (-1,)), (3, (2,), (-1,))),
        *((0, (1 << 40,), (0,)), (0, (2,), (1 << 62,)), (0, (-1,), (1,)), (0, (2, 2), (1,))),
        *((0, (True,), (1,)), (0, (2.0,), (1,)), (0, [2], (1,)), ("0", (2,), (1,)), (4, (1,), (1,))),
        *((5, (), ()), (0, (1,) * 40, (0,) * 40), (0, (1 << 70,), (1,)), (1 << 70, (1,), (1,))),
    ],
    ids=str,
)
def test_a_view_beyond_its_storage_is_refused(view: tuple[Any, Any, Any]) -> None:
    with pytest.raises(NotATorchFile):
        read_torch_file(tensor_file(*view))


@pytest.mark.parametrize(
    ("count", "kind"), [(5, "FloatStorage"), (3, "FloatStorage"), (4, "DoubleStorage"), (-1, "FloatStorage")]
)
def test_a_storage_of_another_length_is_refused(count: int, kind: str) -> None:
    numbers = np.arange(4, dtype="<f4").tobytes()
    pickled = tensor_pickle(0, (1,), (1,), count, kind)
    for content in (zip_container(pickled, k0=numbers), legacy_container(pickled, ["0"], numbers)):
        with pytest.raises(NotATorchFile):
            read_torch_file(content)


# --- hostile files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", CONTAINERS)
def test_what_a_hostile_file_names_is_not_run(tmp_path: Path, container: str) -> None:
    files, sprung = tmp_path / "files", tmp_path / "sprung"
    files.mkdir()
    sprung.mkdir()
    names = list(hostile_pickles(sprung))
    for name in names:  # each makes a file of its own where it is run
        pickled = hostile_pickles(sprung / name.replace(" ", "_"))[name]
        (files / name).write_bytes(CONTAINERS[container](pickled))
    program = (
        "import pathlib, sys\n"
        "from worker.model.torch_file import read_torch_file\n"
        "from worker.model.torch_pickle import NotATorchFile\n"
        "for name in sys.argv[2:]:\n"
        "    try: read_torch_file(pathlib.Path(sys.argv[1], name).read_bytes())\n"
        "    except NotATorchFile: print(name, flush=True)"
    )
    # In a process of their own: what a file started has ended when the pipes are closed.
    done = subprocess.run(
        [sys.executable, "-c", program, files, *names], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines() == names, done.stderr
    assert not list(sprung.iterdir())


def test_the_hostile_pickles_are_hostile(tmp_path: Path) -> None:
    """The test above says nothing where this one fails: Python's own unpickler does run them."""
    hostile = hostile_pickles(tmp_path / "sprung")
    for name in ("os.system", "eval in a dict", "exec", "protocol 0 INST", "protocol 1 OBJ", "STACK_GLOBAL"):
        pickle.loads(hostile[name])  # noqa: S301  # what it does is what is looked at
        (tmp_path / "sprung").unlink()


def test_a_hostile_file_leaves_the_reader_as_it_is(tmp_path: Path) -> None:
    for pickled in hostile_pickles(tmp_path / "sprung").values():
        for container in (legacy_container, zip_container):
            with pytest.raises(NotATorchFile):
                read_torch_file(container(pickled))
    assert read_torch_file(tensor_file(1, (3,), (1,))).tensors["w"].tolist() == [1, 2, 3]


def test_a_name_of_a_file_reaches_no_message_unescaped() -> None:
    pickled = b"\x80\x02cm\x1b[2J\n" + b"M" * 5000 + b"\n)\x81."
    with pytest.raises(NotATorchFile) as caught:
        read_torch_file(zip_container(pickled))
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()


def test_a_module_that_holds_itself_is_refused() -> None:
    body = b"\x80\x02cm\nM\n)\x81q\x00}(X\x08\x00\x00\x00_modules}(X\x01\x00\x00\x00ah\x00X\x01\x00\x00\x00bh\x00uub."
    with pytest.raises(NotATorchFile, match="twice"):
        read_torch_file(zip_container(body))


def test_a_compressed_or_foreign_zip_is_refused() -> None:
    for members in ({"a/data.pkl": 8}, {"a/other": 0}, {"a/data.pkl": 0, "b/data.pkl": 0}):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, method in members.items():
                archive.writestr(name, pickle.dumps({}, 2), method)
        with pytest.raises(NotATorchFile, match="not one that PyTorch wrote"):
            read_torch_file(buffer.getvalue())


@pytest.mark.parametrize("name", bombs())
def test_a_bomb_is_refused_in_little_memory(name: str) -> None:
    bomb = bombs()[name]
    program = (
        "import resource, sys\n"
        "from worker.model.torch_file import read_torch_file\n"
        "from worker.model.torch_pickle import NotATorchFile\n"
        "content = sys.stdin.buffer.read()\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (400 << 20),) * 2)\n"
        "try: read_torch_file(content)\n"
        "except NotATorchFile: print('refused')"
    )
    for container in (zip_container, legacy_container):
        done = subprocess.run(
            [sys.executable, "-c", program], input=container(bomb), cwd=ROOT, capture_output=True, timeout=120
        )
        assert done.stdout == b"refused\n", done.stderr


def test_many_storages_over_the_same_bytes_are_refused() -> None:
    """A file can't announce more numbers than it is long."""
    one = tensor_pickle(0, (4,), (1,), 1 << 40)
    with pytest.raises(NotATorchFile, match="more numbers than it holds"):
        read_torch_file(zip_container(one, k0=bytes(16)))


@pytest.mark.slow
@pytest.mark.parametrize("legacy", [True, False], ids=["legacy", "zip"])
def test_a_damaged_file_is_refused_or_read(legacy: bool) -> None:
    base = saved(tensors(), legacy=legacy)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    chance = random.Random(0)
    refused = 0
    for _ in range(1500):
        content = bytearray(base)
        for _ in range(chance.choice((1, 1, 2, 8))):
            content[chance.randrange(len(content))] = chance.randrange(256)
        if chance.random() < 0.2:
            del content[chance.randrange(len(content)) :]
        try:
            found = read_torch_file(bytes(content))
        except NotATorchFile:
            refused += 1
        else:
            assert all(isinstance(tensor, np.ndarray) for tensor in found.tensors.values())
    assert refused > 100
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB


@pytest.mark.slow
def test_a_file_cut_anywhere_is_refused() -> None:
    for legacy in (True, False):
        whole = saved(tensors(), legacy=legacy)
        for length in range(0, len(whole), 97):
            with pytest.raises(NotATorchFile):
                read_torch_file(whole[:length])
