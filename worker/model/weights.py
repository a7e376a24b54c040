"""The model's weights: a name or a path becomes a file whose hash was verified.

This module imports neither PyTorch nor ONNX Runtime: a report worker goes through here too.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from backlog.errors import UsageError
from backlog.files import replacing
from backlog.log import event
from backlog.model import DEFAULT_MODEL, MODELS, Model
from backlog.weights import RELEASE_SHA256, SEEDED_NAME, SEEDED_SHA256, is_seeded
from worker.model.cache import exclusive


@dataclass(frozen=True)
class Release:
    """A published weights file."""

    url: str
    sha256: str = ""  #: empty where fewer than two independent sources state it
    size: int = 0  #: bytes; 0 where it is not known

    @property
    def file_name(self) -> str:
        """The name of the file, in the release and in the cache."""
        return self.url.rpartition("/")[2]


_V1: Final = "https://github.com/mlmed/torchxrayvision/releases/download/v1/"
_DENSENET: Final = "-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt"
#: torchxrayvision 1.5.7, ``models.model_urls``: assets of its release v1.
RELEASES: Final = {
    DEFAULT_MODEL: Release(
        f"{_V1}nih-pc-chex-mimic_ch-google-openi-kaggle{_DENSENET}",
        RELEASE_SHA256[DEFAULT_MODEL],
        28_382_008,
    ),
    "densenet121-res224-nih": Release(f"{_V1}nih{_DENSENET}"),
    "densenet121-res224-pc": Release(f"{_V1}pc{_DENSENET}"),
    "densenet121-res224-chex": Release(f"{_V1}chex{_DENSENET}"),
    "densenet121-res224-rsna": Release(f"{_V1}kaggle{_DENSENET}"),
    "densenet121-res224-mimic_nb": Release(f"{_V1}mimic_nb{_DENSENET}"),
    "densenet121-res224-mimic_ch": Release(f"{_V1}mimic_ch{_DENSENET}"),
    "resnet50-res512-all": Release(f"{_V1}pc-nih-rsna-siim-vin-resnet50-test512-e400-state.pt"),
}

#: More than any of the released files has; a server that sends without end is given up.
_MAX_DOWNLOAD: Final = 200_000_000
SECONDS_WITHOUT_AN_ANSWER: Final = 30


@dataclass(frozen=True)
class Weights:
    """A weights file whose hash was verified."""

    path: Path
    sha256: str  #: of the whole file, lower-case hexadecimal
    meaningful: bool  #: False for seeded weights: their scores mean nothing, and whatever is written says so
    model: Model = MODELS[DEFAULT_MODEL]


def locate(
    weights: str,
    sha256: str,
    cache: Path,
    *,
    download: bool,
    model: str = DEFAULT_MODEL,
    release: Release | None = None,
) -> Weights:
    """Find the weights, fetch or make them where that is asked for, and verify their hash.

    Parameters
    ----------
    weights
        Empty or the model's name: the released file, from the cache or downloaded into it. ``"seeded"``: weights from
        a fixed seed, made in the cache when missing. Anything else: a path to a local file, a state dict or the
        released pickle.
    sha256
        The expected hash, hexadecimal. Empty means that of the released file, where that is known.
    cache
        The directory for downloaded and seeded weights; created when missing.
    download
        Whether the released file may be downloaded when the cache lacks it.
    model
        Whose weights they are, a name of `backlog.model.MODELS`.
    release
        Instead of the model's own.

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
    if model not in MODELS:
        raise UsageError(f"CXR_MODEL={model!r} is none of {', '.join(MODELS)}")
    release = release or RELEASES[model]
    if weights in ("", model):
        wanted = _expected_of(release, expected, model)
        path = _released(cache, release, model, wanted, download=download)
        return Weights(path, wanted, meaningful=True, model=MODELS[model])
    if weights in MODELS:
        raise UsageError(f"CXR_WEIGHTS names {weights} and CXR_MODEL {model}: set CXR_MODEL alone")
    if weights == SEEDED_NAME:
        digest = SEEDED_SHA256[model]
        _agree(expected, digest, SEEDED_NAME)
        return Weights(_seeded(cache, model, digest), digest, meaningful=False, model=MODELS[model])
    path = Path(weights).expanduser().absolute()
    found = _file_digest(path)
    if found != (expected or release.sha256):
        raise UsageError(
            f"{path} has the SHA-256 {found}, "
            + (
                f"not {expected}, which CXR_WEIGHTS_SHA256 asks for"
                if expected
                else _not_the_release(release, model)
            )
            + ". Set CXR_WEIGHTS_SHA256 to its hash only if you know where the file comes from:"
            " its author decides what every score says"
        )
    return Weights(path, found, meaningful=not is_seeded(found), model=MODELS[model])


def _not_the_release(release: Release, model: str) -> str:
    return f"not that of {model}" if release.sha256 else f"and none is known for {model}"


def _expected_of(release: Release, expected: str, model: str) -> str:
    """Return the hash that the released file has to have.

    Raises
    ------
    UsageError
        None is known, or another was given than the known one.
    """
    if release.sha256:
        _agree(expected, release.sha256, model)
        return release.sha256
    if not expected:
        raise UsageError(
            f"the SHA-256 of {model} is not confirmed by independent sources, so it has to be given: fetch"
            f" {release.url} on a machine and network that you trust, run sha256sum on the file, compare the result"
            " with another copy (torchxrayvision keeps its own in ~/.torchxrayvision/models_data), and set"
            " CXR_WEIGHTS_SHA256 to it"
        )
    return expected


def read_verified(path: Path, sha256: str) -> bytes:
    """Read a file whole and compare the hash of exactly these bytes.

    What is read afterwards is what was verified, also if the file changes meanwhile.

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


def _released(cache: Path, release: Release, model: str, sha256: str, *, download: bool) -> Path:
    path = cache / release.file_name
    if not path.exists():
        by_hand = f"Fetch {release.url} into {cache} by hand, or set CXR_WEIGHTS to a copy of it"
        if not download:
            raise UsageError(f"{cache} doesn't hold the weights {model}. {by_hand}")
        with exclusive(cache, "download"):
            if not path.exists():
                _download(release, model, sha256, path, by_hand)
    if _file_digest(path) != sha256:
        raise UsageError(
            f"{path} is damaged or another file: its SHA-256 isn't {sha256}. Remove it, and it is fetched again"
        )
    return path


def _download(release: Release, model: str, sha256: str, path: Path, by_hand: str) -> None:
    if not release.url.startswith(("https://", "http://")):
        raise ValueError("weights are downloaded over HTTP only")
    event("weights.download", url=release.url)
    try:
        with urllib.request.urlopen(release.url, timeout=SECONDS_WITHOUT_AN_ANSWER) as answer:  # noqa: S310
            content = answer.read((release.size or _MAX_DOWNLOAD) + 1)
    except (OSError, http.client.HTTPException) as error:
        raise UsageError(f"can't download the weights {model}: {error}. {by_hand}") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UsageError(
            f"what {release.url} sent is not the weights {model}: its SHA-256 isn't {sha256}. {by_hand}"
        )
    with replacing(path, 0o644) as file:
        file.write(content)


def _seeded(cache: Path, model: str, sha256: str) -> Path:
    path = cache / f"seeded-{model}.pt"
    if not path.exists():
        with exclusive(cache, "seeded"):
            if not path.exists():
                from worker.model.seeded_weights import seeded_file  # numpy

                content = seeded_file(MODELS[model].architecture, MODELS[model].points)
                with replacing(path, 0o644) as file:
                    file.write(content)
    if _file_digest(path) != sha256:
        raise UsageError(f"{path} isn't what the seed gives: remove it and start again")
    return path
