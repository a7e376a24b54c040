"""What the system would do with one file, and why: ``python -m worker.inspection FILE``, one JSON object on stdout.

Goes the same way as the infer task: header, eligibility, pixels, scores. Nothing is stored but the picture.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import IO, Any, Final

from backlog.dicom.eligibility import Rules, flags
from backlog.dicom.file import DicomFile
from backlog.dicom.header import screen
from backlog.environment import from_environment
from backlog.errors import KNOWN_FAILURE, USAGE, BacklogError, InstanceRejected, UsageError
from backlog.model import LABELS, MODELS, PRODUCT, SCORE_DIGITS, scores_notice
from backlog.output_file import OutputFile
from backlog.settings import Settings
from backlog.worker_programs import Inspection

#: How a PNG's text says what made it (PNG specification, 11.3.4.3: a chunk's type, keyword, zero, text).
_MARK: Final = b"tEXtSoftware\0" + PRODUCT.encode()


def inspect(file: DicomFile, settings: Settings, picture: OutputFile | None, *, score: bool) -> Inspection:
    """Return what would be done with a file.

    Parameters
    ----------
    file
        The whole file.
    settings
        The settings of this process.
    picture
        Where the 224 × 224 picture that the model sees is written, as PNG. Never onto the file itself.
    score
        Whether to load the model and score the picture.
    """
    found: Inspection = {"outcome": "would be reported", "reason": "", "detail": "", "flags": []}
    try:
        rules = Rules.from_settings(settings)
        judgement = screen(file.header, rules)
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
        from worker.pixels.preprocess import model_input  # numpy

        seen = model_input(file, input_side=MODELS[settings.model].side)
        found["bits"] = seen.bits
        found["flags"] = sorted(flag.value for flag in seen.flags | flags(known, rules))
        if picture is not None:
            _write(seen.image, picture)
            found["picture"] = str(picture.path)
        if score:
            _add_scores(found, seen.image, settings)
    except InstanceRejected as rejected:
        found["outcome"] = f"would be {rejected.reason.outcome.value}"
        found["reason"], found["detail"] = rejected.reason.value, rejected.detail
    return found


def is_own_picture(file: IO[bytes]) -> bool:
    """Whether a file is an earlier picture of this kind: its first text says so."""
    return _MARK in file.read(256)


def _write(image: Any, to: OutputFile) -> None:
    """Write a picture of range [-1024, 1024] as 8-bit grey."""
    import numpy as np
    from PIL import Image, PngImagePlugin  # not needed by a worker at work

    about = PngImagePlugin.PngInfo()
    about.add_text("Software", PRODUCT)
    grey = Image.fromarray(np.clip((image + 1024.0) / 8.0, 0, 255).astype(np.uint8))
    with to.open(is_own_picture) as file:
        grey.save(file, format="PNG", pnginfo=about)


def _add_scores(found: Inspection, image: Any, settings: Settings) -> None:
    from worker.model.engine import load
    from worker.model.weights import locate

    weights = locate(
        settings.weights, settings.weights_sha256, settings.cache_folder, download=True, model=settings.model
    )
    engine = load(weights, engine=settings.engine, threads=settings.threads or 1)
    scores = engine.scores(image[None, None])[0]
    if notice := scores_notice(meaningful=weights.meaningful):
        found["warning"] = notice
    found["weights_meaningful"] = weights.meaningful
    found["scores"] = {
        label: round(float(score), SCORE_DIGITS) if trained else None
        for label, score, trained in zip(LABELS, scores, weights.model.evaluated, strict=True)
    }


def main() -> None:
    """Inspect one file."""
    parser = argparse.ArgumentParser(prog="python -m worker.inspection", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--force", action="store_true")
    parser.add_argument("--no-scores", action="store_true")
    arguments = parser.parse_args()
    picture = None
    if arguments.picture:
        picture = OutputFile(arguments.picture, inputs=(arguments.file,), force=arguments.force)
    try:
        settings = from_environment()
        if picture is not None:
            picture.check(is_own_picture)
        found = inspect(
            DicomFile(arguments.file.read_bytes()), settings, picture, score=not arguments.no_scores
        )
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(USAGE) from None
    except BacklogError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(KNOWN_FAILURE) from None
    except OSError as error:
        sys.stderr.write(f"{arguments.file}: {error.strerror}\n")
        raise SystemExit(USAGE) from None
    print(json.dumps(found))  # noqa: T201  # its output


if __name__ == "__main__":
    main()
