"""The model's weights: a name or a path becomes a file whose hash was verified.

This module imports neither PyTorch nor ONNX Runtime: a CPU worker goes through here every time it starts. The
steps that need PyTorch (making the seeded weights, exporting to ONNX) run in a Python process of their own.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import re
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from backlog.errors import UsageError
from worker.model.cache import exclusive, run_with_torch, write_atomically

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True)
class Release:
    """A published weights file."""

    name: str  #: what torchxrayvision calls the weights
    url: str
    size: int  #: bytes
    sha256: str

    @property
    def file_name(self) -> str:
        """The name of the file, in the release and in the cache."""
        return self.url.rpartition("/")[2]


#: torchxrayvision 1.5.7, ``models.model_urls["densenet121-res224-all"]``; an asset of its release v1.
RELEASED: Final = Release(
    name="densenet121-res224-all",
    url="https://github.com/mlmed/torchxrayvision/releases/download/v1/"
    "nih-pc-chex-mimic_ch-google-openi-kaggle-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt",
    size=28_382_008,
    sha256="56524913dd16a906422e8d8b66a7a5c46be1d82eb7ac012d8103776f1aa68899",
)
RELEASED_NAME: Final = RELEASED.name
RELEASED_URL: Final = RELEASED.url
RELEASED_SHA256: Final = RELEASED.sha256

#: The weights made from a fixed seed: right in shape, without any meaning.
SEEDED_NAME: Final = "seeded"
#: Of the file that ``worker.model.torch_model`` writes. It names the seeded weights wherever their file lies.
SEEDED_SHA256: Final = "73a0bc5306ff8274df7a64a75f1a33457e1661d383cdba8e5fefe4177f49e711"

#: Changes whenever the exported graph does, so that an older export is left alone and a new one made.
EXPORT_VERSION: Final = 1

_SECONDS_WITHOUT_AN_ANSWER: Final = 30


@dataclass(frozen=True)
class Form:
    """A form of the model in ONNX."""

    mark: str  #: in the file's name
    module: str  #: what writes it, in a Python process of its own


#: What scores images.
SCORING: Final = Form(f"v{EXPORT_VERSION}", "worker.model.onnx_export")
#: What tells too where in the image each score comes from; made only where pictures are asked for.
#: The number changes whenever its graph does.
MAPPING: Final = Form("maps1", "worker.model.grad_cam_export")


@dataclass(frozen=True)
class Weights:
    """A weights file whose hash was verified."""

    path: Path
    sha256: str  #: of the whole file, lower-case hexadecimal
    meaningful: bool  #: False for seeded weights: their scores mean nothing, and whatever is written says so


def locate(weights: str, sha256: str, cache: Path, *, download: bool, release: Release = RELEASED) -> Weights:
    """Find the weights, fetch or make them where that is asked for, and verify their hash.

    Parameters
    ----------
    weights
        Empty or the release's name: the released file, from the cache or downloaded into it. ``"seeded"``:
        weights from a fixed seed, made in the cache when missing (needs PyTorch). Anything else: a path to a
        local file, a state dict or the released pickle.
    sha256
        The expected hash of a local file, hexadecimal. Empty means that it has to be the released file.
    cache
        The directory for downloaded and seeded weights; created when missing.
    download
        Whether the released file may be downloaded when the cache lacks it.
    release
        Which file the name stands for.

    Raises
    ------
    UsageError
        The file is missing, can't be read or fetched, or has another hash. The text says what to do.
    """
    expected = sha256.strip().lower()
    if expected and not re.fullmatch(r"[0-9a-f]{64}", expected):
        raise UsageError(
            "CXR_WEIGHTS_SHA256 is no SHA-256: give its 64 hexadecimal digits, or leave it empty"
        )
    if weights in ("", release.name):
        _agree(expected, release.sha256, release.name)
        return Weights(_released(cache, release, download=download), release.sha256, meaningful=True)
    if weights == SEEDED_NAME:
        _agree(expected, SEEDED_SHA256, SEEDED_NAME)
        return Weights(_seeded(cache), SEEDED_SHA256, meaningful=False)
    path = Path(weights).expanduser().absolute()
    found = _file_digest(path)
    if found != (expected or release.sha256):
        raise UsageError(
            f"{path} has the SHA-256 {found}, not "
            + (f"{expected}, which CXR_WEIGHTS_SHA256 asks for" if expected else f"that of {release.name}")
            + ". Set CXR_WEIGHTS_SHA256 to its hash only if you know where the file comes from:"
            " loading it may run code that it holds"
        )
    return Weights(path, found, meaningful=found != SEEDED_SHA256)


def read_verified(path: Path, sha256: str) -> bytes:
    """Read a file whole and compare the hash of exactly these bytes.

    What is unpickled or run afterwards is what was verified, also if the file changes meanwhile.

    Raises
    ------
    UsageError
        The file can't be read, or its hash is another.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"can't read the weights {path}: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UsageError(f"{path} is not the file with the SHA-256 {sha256}: replace or remove it")
    return content


def cached_export(weights: Weights, cache: Path, form: Form = SCORING) -> Path | None:
    """Find the ONNX export of these weights in the cache.

    The file's name carries the hash of the weights, the export's version and the hash of its own content. One
    whose content doesn't match is passed over, so that it is exported again.
    """
    for path in sorted(cache.glob(f"{weights.sha256}.{form.mark}.*.onnx")):
        if path.name == export_name(weights, _file_digest(path), form):
            return path
        _LOG.warning("export.damaged path=%s", path)
    return None


def export_name(weights: Weights, sha256: str, form: Form = SCORING) -> str:
    """Name an export after its weights, its version and the hash of its content."""
    return f"{weights.sha256}.{form.mark}.{sha256}.onnx"


def exported(weights: Weights, cache: Path, form: Form = SCORING) -> Path:
    """Find the ONNX export of these weights, making it first when there is none.

    Of several workers that start together one exports and the others wait for it.

    Raises
    ------
    UsageError
        There is no export and PyTorch isn't installed here, the weights don't fit the model, or the export
        doesn't give PyTorch's scores.
    """
    if path := cached_export(weights, cache, form):
        return path
    with exclusive(cache, "export"):
        if path := cached_export(weights, cache, form):
            return path
        _LOG.info("export.started weights=%s", weights.sha256)
        run_with_torch(form.module, str(weights.path), weights.sha256, str(cache.absolute()))
    if path := cached_export(weights, cache, form):
        return path
    raise UsageError(f"the export left no valid file in {cache}: is the disk full?")


def _agree(expected: str, sha256: str, name: str) -> None:
    if expected not in ("", sha256):
        raise UsageError(
            f"CXR_WEIGHTS_SHA256 is {expected}, and the weights {name} have {sha256}: leave it empty, or set"
            " CXR_WEIGHTS to the file that you mean"
        )


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise UsageError(f"there are no weights at {path}: correct CXR_WEIGHTS") from error
    except OSError as error:
        raise UsageError(f"can't read the weights {path}: {error.strerror}") from error


def _released(cache: Path, release: Release, *, download: bool) -> Path:
    path = cache / release.file_name
    if not path.exists():
        by_hand = f"Fetch {release.url} into {cache} by hand, or set CXR_WEIGHTS to a copy of it"
        if not download:
            raise UsageError(f"{cache} doesn't hold the weights {release.name}. {by_hand}")
        with exclusive(cache, "download"):
            if not path.exists():
                _download(release, path, by_hand)
    if _file_digest(path) != release.sha256:
        raise UsageError(
            f"{path} is damaged or another file: its SHA-256 isn't {release.sha256}. Remove it, and it is"
            " fetched again"
        )
    return path


def _download(release: Release, path: Path, by_hand: str) -> None:
    if not release.url.startswith(("https://", "http://")):
        raise ValueError("weights are downloaded over HTTP only")
    _LOG.info("weights.download url=%s", release.url)
    try:
        with urllib.request.urlopen(release.url, timeout=_SECONDS_WITHOUT_AN_ANSWER) as answer:  # noqa: S310
            content = answer.read(release.size + 1)
    except (OSError, http.client.HTTPException) as error:
        raise UsageError(f"can't download the weights {release.name}: {error}. {by_hand}") from error
    if hashlib.sha256(content).hexdigest() != release.sha256:
        raise UsageError(
            f"what {release.url} sent is not the weights {release.name}: its SHA-256 isn't {release.sha256}."
            f" {by_hand}"
        )
    write_atomically(path, content)


def _seeded(cache: Path) -> Path:
    path = cache / "seeded.pt"
    if not path.exists():
        with exclusive(cache, "seeded"):
            if not path.exists():
                run_with_torch("worker.model.torch_model", str(path.absolute()))
    if _file_digest(path) != SEEDED_SHA256:
        raise UsageError(
            f"{path} isn't what the seed gives with the pinned PyTorch: remove it and start again"
        )
    return path
