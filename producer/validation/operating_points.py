"""Operating points as a file: from which score on each finding counts as present, bound to what made the scores."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypedDict

from backlog.errors import UsageError
from backlog.files import check_is_file
from backlog.log import printable
from backlog.model import LABELS, SCORE_DIGITS

#: What the file says that it is.
FORMAT: Final = "cxr-backlog operating points 1"


_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class _Twice(ValueError):
    """A name stands twice in one object: which of the two counts would be a matter of luck."""


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    for name, _ in pairs if len(found) < len(pairs) else ():
        if sum(name == other for other, _ in pairs) > 1:
            raise _Twice(name)
    return found


@dataclass(frozen=True)
class OperatingPoints:
    """Thresholds for some findings; the others keep the model's own."""

    model: str
    weights_sha256: str
    weights_meaningful: bool  #: False of seeded weights
    preprocessing: str
    thresholds: dict[str, float]  #: by label, in (0, 1)
    sha256: str  #: of the file's content: what a report names

    def of(self, label: str, default: float) -> float:
        """Return a finding's threshold."""
        return self.thresholds.get(label, default)


class ProposedPoint(TypedDict):
    """One finding's point in a file, and what is known of it."""

    threshold: float
    positives: int
    negatives: int
    sensitivity: float
    specificity: float


def document(
    *,
    model: str,
    weights_sha256: str,
    weights_meaningful: bool,
    preprocessing: str,
    rule: str,
    created: str,
    source: str,
    points: Mapping[str, ProposedPoint],
) -> str:
    """Return the text of a file.

    Parameters
    ----------
    model
        The model's name.
    weights_sha256
        Hex digest of the weights file.
    weights_meaningful
        False for seeded weights, whose scores mean nothing.
    preprocessing
        The version of the preprocessing.
    rule
        The rule that chose the points.
    created
        ISO 8601.
    source
        What the points were chosen on: the run.
    points
        By label: ``threshold``, and what is known of it.
    """
    content = {
        "format": FORMAT,
        "model": model,
        "weights_sha256": weights_sha256,
        "weights_meaningful": weights_meaningful,
        "preprocessing": preprocessing,
        "rule": rule,
        "created": created,
        "source": source,
        "points": points,
    }
    return json.dumps(content, indent=2) + "\n"


def read_operating_points(path: Path) -> OperatingPoints:
    """Read a file of operating points.

    Raises
    ------
    UsageError
        It can't be read, is none, or has an unknown finding or a threshold outside (0, 1).
    """
    check_is_file(path)
    try:
        raw = path.read_bytes()
        content = json.loads(raw, object_pairs_hook=_each_once)
    except OSError as error:
        raise UsageError(f"{path}: can't be read ({error.strerror})") from error
    except _Twice as error:
        raise UsageError(f"{path}: {printable(str(error))!r} stands twice in it") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: this is no file of operating points (no JSON)") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UsageError(f"{path}: this is no file of operating points (its format isn't {FORMAT!r})")
    thresholds: dict[str, float] = {}
    points = content.get("points")
    if not isinstance(points, dict) or not points:
        raise UsageError(f"{path}: it holds no operating point")
    for label, point in points.items():
        if label not in LABELS:
            raise UsageError(f"{path}: {printable(label, 64)!r} is no finding of this model")
        threshold = point.get("threshold") if isinstance(point, dict) else None
        if not isinstance(threshold, (int, float)) or isinstance(threshold, bool) or not 0 < threshold < 1:
            raise UsageError(f"{path}: the threshold of {label} must be a number between 0 and 1")
        thresholds[label] = round(float(threshold), SCORE_DIGITS)  # as scores are
        if not 0 < thresholds[label] < 1:
            raise UsageError(
                f"{path}: the threshold of {label} is nearer to 0 or 1 than scores are told apart"
            )
    texts = [content.get(name) for name in ("model", "weights_sha256", "preprocessing")]
    if not all(isinstance(text, str) and text for text in texts):
        raise UsageError(f"{path}: it doesn't say for which model, weights and preprocessing it is")
    model, weights, preprocessing = (str(text) for text in texts)
    if not _SHA256.fullmatch(weights):
        raise UsageError(f"{path}: its weights_sha256 is no SHA-256")
    meaningful = content.get("weights_meaningful")
    if not isinstance(meaningful, bool):
        raise UsageError(
            f"{path}: it doesn't say whether its weights are seeded (weights_meaningful: true or false)"
        )
    return OperatingPoints(
        model, weights, meaningful, preprocessing, thresholds, hashlib.sha256(raw).hexdigest()
    )


def check_fits(points: OperatingPoints, *, model: str, preprocessing: str, path: Path) -> None:
    """Refuse points that were chosen for other scores; which weights are there, the workers tell later.

    Parameters
    ----------
    points
        The points, as read from the file.
    model
        The name of the run's model.
    preprocessing
        The version of the run's preprocessing.
    path
        The file, for the message.

    Raises
    ------
    UsageError
        They were: a threshold of one model means nothing for another.
    """
    for name, theirs, ours in (
        ("model", points.model, model),
        ("preprocessing version", points.preprocessing, preprocessing),
    ):
        if theirs != ours:
            raise UsageError(
                f"{path}: these operating points are for another {name} ({theirs[:16]}, here {ours[:16]}): validate"
                " again with this one"
            )
