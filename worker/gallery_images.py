"""What the gallery shows of each image: ``python -m worker.gallery_images``, asked on stdin, answering on stdout.

One JSON object asks for all images (`GalleryRequest`). The first line that comes back says whether there are heat
maps; then comes a line for each image, in order: the radiograph as JPEG with its heat maps, or why there is none.
Images are fetched and decoded by the reader's process, as for the scores, and nothing is stored.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import IO, Any, Final

from backlog.dicom.eligibility import Rules
from backlog.environment import from_environment
from backlog.errors import (
    KNOWN_FAILURE,
    UNAVAILABLE,
    USAGE,
    BacklogError,
    InstanceRejected,
    ServiceUnavailable,
    UsageError,
)
from backlog.model import ENGINE_TOLERANCE, LABELS
from backlog.outcomes import Reason
from backlog.processes import cores
from backlog.settings import Settings
from backlog.worker_programs import (
    GalleryHead,
    GalleryImage,
    GalleryRejection,
    GalleryRequest,
    RequestedImage,
)
from worker.reader.pool import Readers
from worker.reader.protocol import PreprocessedImage, RejectedImage

#: Most pixels on the longer side of a picture: a page of 500 then has about 30 MB.
SIDE: Final = 768
_QUALITY: Final = 82
#: Tries of an image while the PACS is unavailable, and images that it may fail on one after the other.
_TRIES: Final = 3
_PAUSE_SECONDS: Final = 1.0


def answers(
    request: GalleryRequest, settings: Settings
) -> Iterator[GalleryHead | GalleryImage | GalleryRejection]:
    """Yield the first line and one for each image.

    Raises
    ------
    ServiceUnavailable, UsageError
        The PACS is unavailable or refuses us.
    """
    if importlib.util.find_spec("PIL") is None:
        raise UsageError("drawing needs Pillow: install cxr-backlog[derived]")
    readers = Readers(settings, Rules.from_spec(request["rules"]), max(1, min(2, cores() - 1)))
    readers.launch()  # before the model brings threads
    try:
        maps, reason = _class_activation(request["weights"], settings)
        yield {"no_heat_maps": reason}
        for image, seen in _read(readers, request["images"]):
            yield _answer(image, seen, maps)
    finally:
        readers.stop()


def _class_activation(weights_sha256: str, settings: Settings) -> tuple[Any, str]:
    """Return the model with its maps; None, and why, where it isn't here."""
    from worker.model.class_activation import ClassActivation
    from worker.model.weights import locate

    try:
        weights = locate(
            settings.weights,
            settings.weights_sha256,
            settings.cache_folder,
            download=False,
            model=settings.model,
        )
        if weights.sha256 != weights_sha256:
            return None, "the weights here are not those that scored: see CXR_WEIGHTS"
        return ClassActivation(weights, threads=cores()), ""
    except UsageError as error:
        return None, str(error)
    except ImportError as error:
        return None, f"{error.name} is not installed: install cxr-backlog[worker]"


def _read(
    readers: Readers, images: Sequence[RequestedImage]
) -> Iterator[tuple[RequestedImage, PreprocessedImage | RejectedImage]]:
    """Read all images; one that the PACS fails on, while it gives others, is rejected as `pacs_fails`.

    Raises
    ------
    ServiceUnavailable
        It fails on several, one after the other, or on all.
    """
    at = tries = failed = read = 0
    while at < len(images):
        stream = readers.read([image["instance"] for image in images[at:]], display_side=SIDE)
        try:
            for seen in stream:
                yield images[at], seen
                at, tries, failed, read = at + 1, 0, 0, read + 1
        except ServiceUnavailable as error:
            tries += 1
            if tries < _TRIES:
                time.sleep(_PAUSE_SECONDS)
                continue
            failed += 1
            if failed == _TRIES or (not read and at == len(images) - 1):
                raise
            yield images[at], RejectedImage(InstanceRejected(error.reason))
            at, tries = at + 1, 0


def _answer(
    image: RequestedImage, seen: PreprocessedImage | RejectedImage, maps: Any
) -> GalleryImage | GalleryRejection:
    if isinstance(seen, RejectedImage):
        return {"rejected": seen.rejection.reason.value}
    if seen.sop_instance_uid != image["sop_instance_uid"]:
        return {"rejected": Reason.NOT_IN_PACS.value}
    assert seen.displayed is not None  # noqa: S101  # it was asked for
    jpeg, width, height = _jpeg(seen.displayed)
    answer: GalleryImage = {"jpeg": jpeg, "width": width, "height": height, "contrast": seen.contrast}
    if maps is not None:
        _add_heat(answer, image, maps(seen.image))
    return answer


def _jpeg(grey: Any) -> tuple[str, int, int]:
    from PIL import Image

    picture = Image.fromarray(grey)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    return base64.b64encode(file.getvalue()).decode("ascii"), picture.width, picture.height


def _add_heat(answer: GalleryImage, image: RequestedImage, found: Any) -> None:
    """Add where each finding's score is raised; nothing where the image is now scored otherwise than reported."""
    import numpy as np

    if any(
        not abs(float(seen) - score) <= ENGINE_TOLERANCE
        for seen, score in zip(found.scores, image["scores"], strict=True)
        if score is not None
    ):
        answer["other_scores"] = True
        return
    levels = np.stack([found.heat(finding) for finding in range(len(LABELS))])
    quantised = np.round(255 * np.nan_to_num(levels)).astype(np.uint8)
    answer["heat"], answer["cells"] = (
        base64.b64encode(quantised.tobytes()).decode("ascii"),
        int(levels.shape[-1]),
    )


def serve(requests: IO[str], to: IO[str]) -> None:
    """Answer one request, a line at a time, as the images come."""
    request: GalleryRequest = json.load(requests)
    for answer in answers(request, from_environment()):
        to.write(json.dumps(answer) + "\n")
        to.flush()


def main() -> None:
    """Answer the request on standard input."""
    try:
        serve(sys.stdin, sys.stdout)
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(USAGE) from None
    except ServiceUnavailable as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(UNAVAILABLE) from None
    except BacklogError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(KNOWN_FAILURE) from None


if __name__ == "__main__":
    main()
