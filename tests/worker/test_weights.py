"""Weights: by name or path, never without their hash, and every failure says what to do."""

from __future__ import annotations

import hashlib
import http.server
import io
import pickle
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from backlog.errors import UsageError
from tests.support.weights_fixture import released_format, seeded, weights_cache  # noqa: F401 - fixtures
from worker.model import weights as module
from worker.model.cache import run_with_torch
from worker.model.weights import (
    RELEASED,
    RELEASED_SHA256,
    SEEDED_SHA256,
    Release,
    Weights,
    cached_export,
    export_name,
    locate,
    read_verified,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTENT = b"weights" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
ROOT = Path(__file__).resolve().parents[2]


def release(url: str) -> Release:
    return Release("small", f"{url}/small.pt", len(CONTENT), DIGEST)


@contextmanager
def server(content: bytes, *, status: int = 200, length: int | None = None) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content) if length is None else length))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_address[1]}"
        finally:
            running.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


# --- the released file ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "small"])
def test_the_released_file_is_taken_from_the_cache(tmp_path: Path, name: str) -> None:
    (tmp_path / "small.pt").write_bytes(CONTENT)
    found = locate(name, "", tmp_path, download=False, release=release("http://127.0.0.1:9"))
    assert found == Weights(tmp_path / "small.pt", DIGEST, meaningful=True)


def test_a_damaged_file_in_the_cache_is_refused(tmp_path: Path) -> None:
    (tmp_path / "small.pt").write_bytes(CONTENT[:-1])
    with pytest.raises(UsageError, match=r"damaged or another file.*Remove it"):
        locate("small", "", tmp_path, download=True, release=release("http://127.0.0.1:9"))


def test_without_the_file_and_without_download_the_error_names_url_and_place(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        locate("", "", tmp_path, download=False)
    assert RELEASED.url in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "CXR_WEIGHTS" in str(caught.value)


def test_the_released_file_is_downloaded_once(tmp_path: Path) -> None:
    cache = tmp_path / "not" / "yet"
    with server(CONTENT) as url:
        wanted = release(url)
        found = locate("small", "", cache, download=True, release=wanted)
    assert found.path.read_bytes() == CONTENT
    assert locate("small", "", cache, download=True, release=wanted) == found  # the server is gone


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (CONTENT[::-1], {}),
        (CONTENT + b"more", {}),
        (CONTENT[:100], {}),
        (CONTENT[:100], {"length": len(CONTENT)}),
        (b"<html>log in</html>", {}),
        (b"", {"status": 404}),
        (b"", {"status": 503}),
    ],
)
def test_a_wrong_download_is_refused_and_leaves_nothing(
    tmp_path: Path, content: bytes, options: dict[str, int]
) -> None:
    with (
        server(content, **options) as url,
        pytest.raises(UsageError, match=r"(is not the weights small|can't download).*by hand"),
    ):
        locate("small", "", tmp_path, download=True, release=release(url))
    assert [path.name for path in tmp_path.iterdir()] == [".download.lock"]


def test_without_a_network_the_error_says_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound, not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UsageError, match=r"can't download.*by hand, or set CXR_WEIGHTS"):
            locate("small", "", tmp_path, download=True, release=release(url))


def test_a_silent_server_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS_WITHOUT_AN_ANSWER", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UsageError, match=r"can't download.*timed out"):
            locate("small", "", tmp_path, download=True, release=release(url))


def test_nonsense_instead_of_http_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nonsense:

        def answer() -> None:
            connection, _ = nonsense.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"220 mail ready\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{nonsense.getsockname()[1]}"
        with pytest.raises(UsageError, match="can't download"):
            locate("small", "", tmp_path, download=True, release=release(url))
        thread.join()


def test_only_http_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "small.pt").write_bytes(CONTENT)
    with pytest.raises(ValueError, match="HTTP only"):
        locate("small", "", tmp_path / "cache", download=True, release=release(tmp_path.as_uri()))


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="can't write to the cache"):
        locate("small", "", tmp_path / "file", download=True, release=release("http://127.0.0.1:9"))


def test_the_release_is_the_one_that_torchxrayvision_loads() -> None:
    xrv = pytest.importorskip("torchxrayvision")
    assert xrv.models.model_urls[RELEASED.name]["weights_url"] == RELEASED.url


# --- a local file --------------------------------------------------------------------------------------


def test_a_local_file_needs_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    path.write_bytes(CONTENT)
    assert locate(str(path), DIGEST.upper(), tmp_path, download=False) == Weights(
        path, DIGEST, meaningful=True
    )
    with pytest.raises(UsageError, match=f"{DIGEST}, not that of densenet121.*CXR_WEIGHTS_SHA256"):
        locate(str(path), "", tmp_path, download=False)
    with pytest.raises(UsageError, match="which CXR_WEIGHTS_SHA256 asks for"):
        locate(str(path), "0" * 64, tmp_path, download=False)


def test_a_local_copy_of_the_release_needs_no_hash(tmp_path: Path) -> None:
    path = tmp_path / "copy.pt"
    path.write_bytes(CONTENT)
    assert locate(str(path), "", tmp_path, download=False, release=release("http://h")).meaningful


@pytest.mark.parametrize("digest", ["123", "g" * 64, DIGEST + "0"])
def test_a_malformed_hash_is_refused(tmp_path: Path, digest: str) -> None:
    with pytest.raises(UsageError, match="64 hexadecimal digits"):
        locate("", digest, tmp_path, download=False)


@pytest.mark.parametrize("name", ["", RELEASED.name, "seeded"])
def test_a_name_with_another_hash_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="leave it empty"):
        locate(name, DIGEST, tmp_path, download=False)


def test_a_missing_file_and_a_directory_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no weights at .*none\.pt: correct CXR_WEIGHTS"):
        locate(str(tmp_path / "none.pt"), DIGEST, tmp_path, download=False)
    with pytest.raises(UsageError, match="can't read the weights"):
        locate(str(tmp_path), DIGEST, tmp_path, download=False)


def test_a_file_exchanged_after_its_check_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    path.write_bytes(CONTENT)
    found = locate(str(path), DIGEST, tmp_path, download=False)
    path.write_bytes(CONTENT[::-1])
    with pytest.raises(UsageError, match="is not the file"):
        read_verified(found.path, found.sha256)
    path.unlink()
    with pytest.raises(UsageError, match="can't read"):
        read_verified(found.path, found.sha256)


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


def test_a_pickle_runs_nothing_unless_its_hash_was_given(tmp_path: Path) -> None:
    from worker.model.torch_model import reference

    path, sprung = tmp_path / "bomb.pt", tmp_path / "sprung"
    path.write_bytes(pickle.dumps(Bomb(sprung)))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(UsageError):
        reference(locate(str(path), "", tmp_path, download=False))
    with pytest.raises(UsageError):
        reference(Weights(path, RELEASED_SHA256, meaningful=True))
    assert not sprung.exists()
    with pytest.raises(UsageError, match="no readable PyTorch file"):  # not torch's format at all
        reference(locate(str(path), digest, tmp_path, download=False))


# --- seeded weights ------------------------------------------------------------------------------------


def test_seeded_weights_are_the_same_everywhere_and_mean_nothing(seeded: Weights, tmp_path: Path) -> None:  # noqa: F811
    assert seeded.sha256 == SEEDED_SHA256
    assert not seeded.meaningful
    copy = tmp_path / "innocent_name.pt"
    shutil.copy(seeded.path, copy)
    assert not locate(str(copy), SEEDED_SHA256, tmp_path, download=False).meaningful


def test_damaged_seeded_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "seeded.pt").write_bytes(CONTENT)
    with pytest.raises(UsageError, match="remove it"):
        locate("seeded", "", tmp_path, download=False)


# --- loading into PyTorch ------------------------------------------------------------------------------


def save(content: object, path: Path) -> Weights:
    import torch

    torch.save(content, path)
    return Weights(path, hashlib.sha256(path.read_bytes()).hexdigest(), meaningful=True)


def state(seeded: Weights) -> dict[str, Any]:  # noqa: F811
    import torch

    return dict(torch.load(seeded.path, weights_only=True))


def test_the_released_format_loads_as_torchxrayvision_loads_it(
    seeded: Weights,  # noqa: F811
    tmp_path: Path,
) -> None:
    import torch
    import torchxrayvision as xrv

    from worker.model.torch_model import reference, sample_images

    path = tmp_path / RELEASED.file_name
    digest = released_format(path, seeded)
    theirs = xrv.models.DenseNet(weights=RELEASED.name, cache_dir=str(tmp_path))
    ours = reference(locate(str(path), digest, tmp_path, download=False))
    with torch.inference_mode():
        images = torch.from_numpy(sample_images()[:2])
        assert torch.equal(ours(images), theirs(images))


def test_a_model_pickled_by_an_old_pytorch_loads(seeded: Weights, tmp_path: Path) -> None:  # noqa: F811
    from tests.support.weights_fixture import densenet
    from worker.model.torch_model import reference

    model = densenet(seeded)
    for part in model.modules():
        del part._non_persistent_buffers_set
    reference(save(model, tmp_path / "old.pt"))


def test_a_state_dict_may_carry_the_same_operating_points(seeded: Weights, tmp_path: Path) -> None:  # noqa: F811
    from worker.model.torch_model import operating_points, reference

    points = operating_points()
    reference(save(state(seeded) | {"op_threshs": points}, tmp_path / "same.pt"))
    with pytest.raises(UsageError, match="other operating points"):
        reference(save(state(seeded) | {"op_threshs": points + 0.1}, tmp_path / "other.pt"))


@pytest.mark.parametrize("content", [{"weight": 1}, [1, 2], "text"])
def test_what_is_no_model_is_refused(tmp_path: Path, content: object) -> None:
    from worker.model.torch_model import reference

    with pytest.raises(UsageError, match="neither a state dict nor a model"):
        reference(save(content, tmp_path / "odd.pt"))


def test_another_model_is_refused(seeded: Weights, tmp_path: Path) -> None:  # noqa: F811
    from worker.model.torch_model import reference

    narrow = state(seeded)
    narrow["classifier.bias"] = narrow["classifier.bias"][:14]
    narrow["classifier.weight"] = narrow["classifier.weight"][:14]
    with pytest.raises(UsageError, match="doesn't fit a DenseNet-121 of 18 labels"):
        reference(save(narrow, tmp_path / "narrow.pt"))
    partial = state(seeded)
    del partial["features.norm5.running_var"]
    with pytest.raises(UsageError, match="doesn't fit"):
        reference(save(partial, tmp_path / "partial.pt"))


@pytest.mark.parametrize("whole", ["state dict", "pickle"])
def test_a_truncated_file_is_refused_though_its_hash_was_given(
    seeded: Weights,  # noqa: F811
    tmp_path: Path,
    whole: str,
) -> None:
    from worker.model.torch_model import reference

    path = tmp_path / "whole.pt"
    if whole == "pickle":
        released_format(path, seeded)
    else:
        shutil.copy(seeded.path, path)
    for length in (0, 10, 1_000_000, path.stat().st_size - 10):
        cut = tmp_path / "cut.pt"
        cut.write_bytes(path.read_bytes()[:length])
        digest = hashlib.sha256(cut.read_bytes()).hexdigest()
        with pytest.raises(UsageError, match="no readable PyTorch file"):
            reference(locate(str(cut), digest, tmp_path, download=False))


def test_a_model_of_a_class_that_is_not_installed_is_refused(tmp_path: Path) -> None:
    import torch

    from worker.model.torch_model import reference

    buffer = io.BytesIO()
    torch.save(Bomb(tmp_path / "sprung"), buffer)
    path = tmp_path / "foreign.pt"
    path.write_bytes(buffer.getvalue().replace(b"pathlib", b"pathlob"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(UsageError, match="no readable PyTorch file"):
        reference(Weights(path, digest, meaningful=True))


# --- the export ----------------------------------------------------------------------------------------


def test_the_cached_export_is_found_by_its_weights(seeded: Weights, weights_cache: Path) -> None:  # noqa: F811
    found = cached_export(seeded, weights_cache)
    assert found is not None
    assert hashlib.sha256(found.read_bytes()).hexdigest() in found.name
    assert cached_export(Weights(seeded.path, DIGEST, meaningful=True), weights_cache) is None


def test_a_damaged_export_is_passed_over(
    seeded: Weights,  # noqa: F811
    weights_cache: Path,  # noqa: F811
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole = cached_export(seeded, weights_cache)
    assert whole is not None
    content = bytearray(whole.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / whole.name).write_bytes(content)
    assert cached_export(seeded, tmp_path) is None
    assert "export.damaged" in caplog.text


def test_workers_that_start_together_export_once(seeded: Weights, tmp_path: Path) -> None:  # noqa: F811
    path = tmp_path / "released.pt"
    digest = released_format(path, seeded)
    cache = tmp_path / "cache"
    program = (
        "import logging, sys; from pathlib import Path; from worker.model.weights import exported, locate\n"
        "logging.basicConfig(level='INFO')\n"
        "path, digest, cache = sys.argv[1], sys.argv[2], Path(sys.argv[3])\n"
        "print(exported(locate(path, digest, cache, download=False), cache))\n"
        "assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", program, str(path), digest, str(cache)]
    workers = [
        subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    outputs = [worker.communicate() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    assert sum("export.started" in log for _, log in outputs) == 1
    assert [name.suffix for name in cache.iterdir() if not name.name.startswith(".")] == [".onnx"]


def test_an_export_that_fails_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("torchxrayvision")
    path = tmp_path / "mine.pt"
    path.write_bytes(CONTENT)
    with pytest.raises(UsageError, match="no readable PyTorch file"):
        module.exported(locate(str(path), DIGEST, tmp_path, download=False), tmp_path / "cache")
    assert list((tmp_path / "cache").glob("*.onnx")) == []


def test_a_crash_of_the_exporting_process_is_loud() -> None:
    with pytest.raises(RuntimeError, match="ended with 1"):
        run_with_torch("worker.no_such_module")


def test_an_export_without_pytorch_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchxrayvision", None)
    with pytest.raises(UsageError, match=r"torchxrayvision isn't installed here.*cxr-backlog\[model\]"):
        module.exported(Weights(tmp_path / "w.pt", DIGEST, meaningful=True), tmp_path)


def test_an_export_is_named_after_weights_version_and_content() -> None:
    name = export_name(Weights(Path("w"), "a" * 64, meaningful=True), "b" * 64)
    assert name == f"{'a' * 64}.v{module.EXPORT_VERSION}.{'b' * 64}.onnx"


def test_importing_the_weights_is_light() -> None:
    program = (
        "import sys, worker.model.weights, worker.model.engine, worker.model.onnx_engine\n"
        "heavy = {'torch', 'torchxrayvision', 'onnx', 'onnxruntime', 'requests'} & set(sys.modules)\n"
        "sys.exit(' '.join(heavy) or None)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from worker.model.cache import write_atomically

    (tmp_path / "f").write_bytes(b"old")
    with pytest.raises(TypeError):
        write_atomically(tmp_path / "f", "text")  # type: ignore[arg-type]
    assert (tmp_path / "f").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    write_atomically(tmp_path / "f", np.arange(3).tobytes())
    assert len((tmp_path / "f").read_bytes()) == 24
