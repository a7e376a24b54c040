"""What the system would do with one file, and why: ``python -m worker.inspection FILE``, one JSON object on stdout.

Goes the same way as the infer task: header, eligibility, pixels, scores. Nothing is stored but the picture.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from backlog.dicom.eligibility import Rules, flags
from backlog.dicom.header import read_header, screen
from backlog.errors import InstanceRejected, UsageError
from backlog.model import LABELS, SCORE_DIGITS
from backlog.settings import Settings, from_environment


def inspect(dicom: bytes, settings: Settings, picture: Path | None, *, score: bool) -> dict[str, Any]:
    """Return what would be done with a file.

    Parameters
    ----------
    picture
        Where the 224 × 224 picture that the model sees is written, as PNG.
    score
        Whether to load the model and score the picture.
    """
    found: dict[str, Any] = {"outcome": "would be reported", "reason": "", "detail": "", "flags": []}
    try:
        header = read_header(dicom)
        rules = Rules.from_settings(settings)
        judgement = screen(header, rules)
        known = judgement.attributes
        if judgement.identity is not None:
            found["sop_instance_uid"] = judgement.identity.sop_instance_uid
            found["study_instance_uid"] = judgement.identity.study_instance_uid
        found["facts"] = {
            "sop_class_uid": known.sop_class_uid,
            "modality": known.modality,
            "body_part_examined": known.body_part_examined,
            "view_position": known.view_position,
            "number_of_frames": known.number_of_frames,
        }
        if judgement.rejection is not None:
            raise judgement.rejection
        from worker.pixels.preprocess import model_input  # numpy, scipy

        seen = model_input(dicom)
        found |= {"bits": seen.bits, "flags": sorted(flag.value for flag in seen.flags | flags(known, rules))}
        if picture is not None:
            _write(seen.image, picture)
            found["picture"] = str(picture)
        if score:
            found["scores"] = _scores(seen.image, settings)
    except InstanceRejected as rejected:
        found["outcome"] = f"would be {rejected.reason.outcome.value}"
        found |= {"reason": rejected.reason.value, "detail": rejected.detail}
    return found


def _write(image: Any, path: Path) -> None:
    """Write a picture of range [-1024, 1024] as 8-bit grey."""
    import numpy as np
    from PIL import Image  # not needed by a worker at work

    Image.fromarray(np.clip((image + 1024.0) / 8.0, 0, 255).astype(np.uint8)).save(path, format="PNG")


def _scores(image: Any, settings: Settings) -> dict[str, float]:
    from worker.model.engine import load
    from worker.model.weights import locate

    weights = locate(settings.weights, settings.weights_sha256, settings.cache_folder, download=True)
    engine = load(weights, engine=settings.engine, cache=settings.cache_folder, threads=settings.threads or 1)
    scores = engine.scores(image[None, None])[0]
    return {label: round(float(score), SCORE_DIGITS) for label, score in zip(LABELS, scores, strict=True)}


def main() -> None:
    """Inspect one file."""
    parser = argparse.ArgumentParser(prog="python -m worker.inspection", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--no-scores", action="store_true")
    arguments = parser.parse_args()
    try:
        settings = from_environment()
        found = inspect(
            arguments.file.read_bytes(), settings, arguments.picture, score=not arguments.no_scores
        )
    except (UsageError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None
    print(json.dumps(found))  # noqa: T201  # its output


if __name__ == "__main__":
    main()
