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
from backlog.model import DEFAULT_MODEL, MODELS
from backlog.weights import SEEDED_SHA256
from tests.support.weights_fixture import legacy_release, seeded, weights_cache  # noqa: F401 - fixtures
from worker.model import weights as module
from worker.model.weights import RELEASES, Release, Weights, locate, read_verified

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTENT = b"weights" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
ROOT = Path(__file__).resolve().parents[2]


def release(url: str) -> Release:
    return Release(f"{url}/small.pt", DIGEST, len(CONTENT))


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


@pytest.mark.parametrize("name", ["", DEFAULT_MODEL])
def test_the_released_file_is_taken_from_the_cache(tmp_path: Path, name: str) -> None:
    (tmp_path / "small.pt").write_bytes(CONTENT)
    found = locate(name, "", tmp_path, download=False, release=release("http://127.0.0.1:9"))
    assert found == Weights(tmp_path / "small.pt", DIGEST, meaningful=True)


def test_a_damaged_file_in_the_cache_is_refused(tmp_path: Path) -> None:
    (tmp_path / "small.pt").write_bytes(CONTENT[:-1])
    with pytest.raises(UsageError, match=r"damaged or another file.*Remove it"):
        locate("", "", tmp_path, download=True, release=release("http://127.0.0.1:9"))


def test_without_file_and_download_the_error_names_url_and_place(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        locate("", "", tmp_path, download=False)
    assert RELEASES[DEFAULT_MODEL].url in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "CXR_WEIGHTS" in str(caught.value)


def test_the_released_file_is_downloaded_once(tmp_path: Path) -> None:
    cache = tmp_path / "not" / "yet"
    with server(CONTENT) as url:
        wanted = release(url)
        found = locate("", "", cache, download=True, release=wanted)
    assert found.path.read_bytes() == CONTENT
    assert locate("", "", cache, download=True, release=wanted) == found  # the server is gone


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
        pytest.raises(UsageError, match=r"(is not the weights densenet121|can't download).*by hand"),
    ):
        locate("", "", tmp_path, download=True, release=release(url))
    assert [path.name for path in tmp_path.iterdir()] == [".download.lock"]


def test_without_a_network_the_error_says_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound, not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UsageError, match=r"can't download.*by hand, or set CXR_WEIGHTS"):
            locate("", "", tmp_path, download=True, release=release(url))


def test_a_silent_server_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS_WITHOUT_AN_ANSWER", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UsageError, match=r"can't download.*timed out"):
            locate("", "", tmp_path, download=True, release=release(url))


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
            locate("", "", tmp_path, download=True, release=release(url))
        thread.join()


def test_only_http_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "small.pt").write_bytes(CONTENT)
    with pytest.raises(ValueError, match="HTTP only"):
        locate("", "", tmp_path / "cache", download=True, release=release(tmp_path.as_uri()))


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="can't write to the cache"):
        locate("", "", tmp_path / "file", download=True, release=release("http://127.0.0.1:9"))


# --- the other models -----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [name for name, one in RELEASES.items() if not one.sha256])
def test_weights_without_a_confirmed_hash_ask_for_it(tmp_path: Path, model: str) -> None:
    with pytest.raises(UsageError, match=r"has to be given: .*sha256sum.*set CXR_WEIGHTS_SHA256") as caught:
        locate("", "", tmp_path, download=True, model=model)
    assert RELEASES[model].url in str(caught.value)
    assert not list(tmp_path.iterdir())  # nothing was fetched


def test_without_a_confirmed_hash_the_given_one_fetches_weights(tmp_path: Path) -> None:
    model = "densenet121-res224-nih"
    with server(CONTENT) as url:
        unconfirmed = Release(f"{url}/small.pt")
        with pytest.raises(UsageError, match="is not the weights densenet121-res224-nih"):
            locate("", "0" * 64, tmp_path, download=True, model=model, release=unconfirmed)
        found = locate(model, DIGEST, tmp_path, download=True, model=model, release=unconfirmed)
    assert found == Weights(tmp_path / "small.pt", DIGEST, meaningful=True, model=MODELS[model])


def test_a_local_file_without_a_confirmed_hash_needs_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    path.write_bytes(CONTENT)
    model = "resnet50-res512-all"
    with pytest.raises(UsageError, match=f"{DIGEST}, and none is known for {model}.*CXR_WEIGHTS_SHA256"):
        locate(str(path), "", tmp_path, download=False, model=model)
    assert locate(str(path), DIGEST, tmp_path, download=False, model=model).model is MODELS[model]


def test_an_unknown_model_and_two_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="CXR_MODEL='densenet' is none of densenet121-res224-all,"):
        locate("", "", tmp_path, download=False, model="densenet")
    with pytest.raises(UsageError, match="set CXR_MODEL alone"):
        locate("densenet121-res224-nih", "", tmp_path, download=False)


def test_only_what_many_sources_state_is_pinned() -> None:
    assert [name for name, one in RELEASES.items() if one.sha256] == [DEFAULT_MODEL]


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


@pytest.mark.parametrize("name", ["", DEFAULT_MODEL, "seeded"])
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


# --- seeded weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_seeded_weights_are_the_same_everywhere_and_mean_nothing(
    weights_cache: Path,  # noqa: F811
    tmp_path: Path,
    model: str,
) -> None:
    found = locate("seeded", "", weights_cache, download=False, model=model)
    assert found.sha256 == SEEDED_SHA256[model]
    assert not found.meaningful
    copy = tmp_path / "innocent_name.pt"
    shutil.copy(found.path, copy)
    assert not locate(str(copy), found.sha256, tmp_path, download=False, model=model).meaningful


def test_pytorch_reads_the_seeded_weights(seeded: Weights) -> None:  # noqa: F811
    import torch

    from worker.model.network import read_state

    theirs = torch.load(seeded.path, weights_only=True)
    ours = read_state(seeded)
    assert list(theirs) == list(ours)
    assert all(np.array_equal(theirs[name].numpy(), array) for name, array in ours.items())


def test_damaged_seeded_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / f"seeded-{DEFAULT_MODEL}.pt").write_bytes(CONTENT)
    with pytest.raises(UsageError, match="remove it"):
        locate("seeded", "", tmp_path, download=False)


# --- loading the released format ------------------------------------------------------------------------


def test_the_released_format_scores_as_torchxrayvision_scores_it(
    seeded: Weights,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Its own loader unpickles the file, ours doesn't."""
    import torch

    from tests.support.spread_weights import reference
    from worker.model.network import build_graph, sample_images
    from worker.model.onnx_engine import OnnxForward
    from worker.model.torch_model import Scorer, network

    path = tmp_path / RELEASES[DEFAULT_MODEL].file_name
    digest = legacy_release(path, seeded)
    theirs = reference().models.DenseNet(weights=DEFAULT_MODEL, cache_dir=str(tmp_path))
    weights = locate(str(path), digest, tmp_path, download=False)
    images = sample_images(224)
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(images)).numpy()
        by_torch = Scorer(network(weights), weights.model.points)(torch.from_numpy(images)).numpy()
    assert np.abs(by_torch - expected).max() <= 1e-5
    assert np.abs(OnnxForward(build_graph(weights), threads=1)(images) - expected).max() <= 1e-5


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code:UserWarning")
def test_a_model_pickled_by_an_old_pytorch_is_read(seeded: Weights, tmp_path: Path) -> None:  # noqa: F811
    import torch

    from tests.support.weights_fixture import densenet
    from worker.model.network import build_graph

    model = densenet(seeded)
    for part in model.modules():
        delattr(part, "_non_persistent_buffers_set")  # PyTorch had none
    path = tmp_path / "old.pt"
    torch.save(model, path, _use_new_zipfile_serialization=False)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert build_graph(Weights(path, digest, meaningful=True)) == build_graph(seeded)


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
@pytest.mark.parametrize("container", ["legacy", "zip", "bare"])
def test_a_hostile_file_runs_nothing_though_its_hash_was_given(
    tmp_path: Path, engine: str, container: str
) -> None:
    import torch

    from worker.model.engine import load

    path, sprung = tmp_path / "bomb.pt", tmp_path / "sprung"
    buffer = io.BytesIO()
    if container == "bare":
        pickle.dump(Bomb(sprung), buffer)
    else:
        torch.save({"w": Bomb(sprung)}, buffer, _use_new_zipfile_serialization=container == "zip")
    path.write_bytes(buffer.getvalue())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(UsageError):
        locate(str(path), "", tmp_path, download=False)
    vouched = locate(str(path), digest, tmp_path, download=False)
    with pytest.raises(UsageError, match="not a readable PyTorch file"):
        load(vouched, engine=engine, threads=1)
    assert not sprung.exists()
    pickle.loads(pickle.dumps(Bomb(sprung)))  # noqa: S301  # what it does is what is looked at
    assert sprung.exists()  # so it would have


@pytest.mark.parametrize("whole", ["state dict", "pickle"])
def test_a_truncated_file_is_refused_though_its_hash_was_given(
    seeded: Weights,  # noqa: F811
    tmp_path: Path,
    whole: str,
) -> None:
    from worker.model.network import build_graph

    path = tmp_path / "whole.pt"
    if whole == "pickle":
        legacy_release(path, seeded)
    else:
        shutil.copy(seeded.path, path)
    for length in (0, 10, 1_000_000, path.stat().st_size - 10):
        cut = tmp_path / "cut.pt"
        cut.write_bytes(path.read_bytes()[:length])
        digest = hashlib.sha256(cut.read_bytes()).hexdigest()
        with pytest.raises(UsageError, match="not a readable PyTorch file"):
            build_graph(locate(str(cut), digest, tmp_path, download=False))


# --- making things once ---------------------------------------------------------------------------------


def test_workers_that_start_together_make_seeded_weights_once(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from worker.model.weights import locate\n"
        "print(locate('seeded', '', Path(sys.argv[1]), download=False).sha256)\n"
        "assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    workers = [
        subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    outputs = [worker.communicate() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    assert {output for output, _ in outputs} == {SEEDED_SHA256[DEFAULT_MODEL] + "\n"}
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".pt"] == [
        f"seeded-{DEFAULT_MODEL}.pt"
    ]


def test_importing_the_weights_is_light() -> None:
    program = (
        "import sys, worker.model.weights, worker.model.engine, worker.model.onnx_engine\n"
        "heavy = {'torch', 'torchxrayvision', 'onnx', 'onnxruntime', 'requests'} & set(sys.modules)\n"
        "sys.exit(' '.join(heavy) or None)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
