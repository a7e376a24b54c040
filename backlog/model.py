"""The models that can score, and the findings, in the order of their outputs. Each fact once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

#: Output k of every model is label k: torchxrayvision 1.5.7, models.py, model_urls["densenet121-res224-all"].
LABELS: Final[tuple[str, ...]] = (
    "Atelectasis",
    "Consolidation",
    "Infiltration",
    "Pneumothorax",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Effusion",
    "Pneumonia",
    "Pleural_Thickening",
    "Cardiomegaly",
    "Nodule",
    "Mass",
    "Hernia",
    "Lung Lesion",
    "Fracture",
    "Lung Opacity",
    "Enlarged Cardiomediastinum",
)

#: Decimals of a score, everywhere: more than any engine agrees on with another.
SCORE_DIGITS: Final = 7

#: How far one engine's scores may lie from another's of the same image: what a GPU in half precision may lose.
ENGINE_TOLERANCE: Final = 5e-3

#: Raise when the model's input for the same image changes (worker/pixels/preprocess.py): the scores may then differ.
PREPROCESSING: Final = "4"

#: In Manufacturer and similar places: by it the system knows its own reports and files.
PRODUCT: Final = "cxr-backlog"

#: Where a finding counts as present: torchxrayvision maps its operating point to this (models.py, op_norm).
OPERATING_POINT: Final = 0.5

#: What defines the models, as the reports name it.
MODEL_VERSION: Final = "torchxrayvision 1.5.7"


@dataclass(frozen=True)
class Model:
    """One of torchxrayvision's networks with the configuration that its weights need.

    Parameters
    ----------
    name
        What torchxrayvision calls the weights.
    architecture
        ``densenet121`` or ``resnet50``.
    side
        Pixels on a side of the images that it was trained on.
    points
        The operating points of `LABELS`, as probabilities; NaN for a label that it was not trained on. They belong
        to the configuration, not to the weights file (torchxrayvision 1.5.7, ``models.model_urls``).
    """

    name: str
    architecture: str
    side: int
    points: tuple[float, ...]

    @property
    def evaluated(self) -> tuple[bool, ...]:
        """Whether the model was trained on each label; a report says of the others that they were not evaluated."""
        return tuple(not math.isnan(point) for point in self.points)


#: Rows and columns of the input of most models; of the others, the model says it.
INPUT_SIDE: Final = 224


def _points(text: str) -> tuple[float, ...]:
    """Read operating points; a dash for a label that the model was not trained on."""
    return tuple(math.nan if word == "-" else float(word) for word in text.split())


DEFAULT_MODEL: Final = "densenet121-res224-all"

_MODELS: Final = (
    Model(
        DEFAULT_MODEL,
        "densenet121",
        INPUT_SIDE,
        _points(
            "0.07422872 0.038290843 0.09814756 0.0098118475 0.023601074 0.0022490358 "
            "0.010060724 0.103246614 0.056810737 0.026791653 0.050318155 0.023985857 "
            "0.01939503 0.042889766 0.053369623 0.035975814 0.20204692 0.05015312"
        ),
    ),
    Model(
        "densenet121-res224-nih",
        "densenet121",
        INPUT_SIDE,
        _points(
            "0.039117552 0.0034529066 0.11396341 0.0057298196 0.00045666535 0.0018880932 "
            "0.012037827 0.038744126 0.0037213727 0.014730946 0.016149804 0.054241467 "
            "0.037198864 0.0004403434 - - - -"
        ),
    ),
    Model(
        "densenet121-res224-pc",
        "densenet121",
        INPUT_SIDE,
        _points(
            "0.031012505 0.013347598 0.081435576 0.001262615 0.002587246 0.0035944257 "
            "0.0023071 0.055412333 0.044385884 0.042766232 0.043258056 0.037629247 "
            "0.005658899 0.0091741895 - 0.026507627 - -"
        ),
    ),
    Model(
        "densenet121-res224-chex",
        "densenet121",
        INPUT_SIDE,
        _points(
            "0.1988969 0.05710573 - 0.0531293 0.1435217 - "
            "- 0.27212676 0.07749717 - 0.19712369 - "
            "- - 0.09932402 0.09273402 0.3270967 0.10888247"
        ),
    ),
    Model(
        "densenet121-res224-rsna",
        "densenet121",
        INPUT_SIDE,
        _points("- - - - - - - - 0.13486601 - - - - - - - 0.13511065 -"),
    ),
    Model(
        "densenet121-res224-mimic_nb",
        "densenet121",
        INPUT_SIDE,
        _points(
            "0.08558747 0.011884617 - 0.0040595434 0.010733786 - "
            "- 0.118761964 0.022924708 - 0.06358637 - "
            "- - 0.022143636 0.017476924 0.1258702 0.014020768"
        ),
    ),
    Model(
        "densenet121-res224-mimic_ch",
        "densenet121",
        INPUT_SIDE,
        _points(
            "0.09121389 0.010573786 - 0.005023008 0.003698257 - "
            "- 0.08001232 0.037242252 - 0.05006329 - "
            "- - 0.019866971 0.03823637 0.11303808 0.0069147074"
        ),
    ),
    Model(
        "resnet50-res512-all",
        "resnet50",
        512,
        _points(
            "0.51570356 0.50444704 0.53787947 0.50723547 0.5025118 0.5035252 "
            "0.5038076 0.51862943 0.5078151 0.50724894 0.5056339 0.510706 "
            "0.5053923 0.5020846 - 0.5080557 0.5138526 -"
        ),
    ),
)
#: By name.
MODELS: Final = {model.name: model for model in _MODELS}


def not_evaluated(model: Model) -> list[str]:
    """Return the labels that a model was not trained on."""
    return [label for label, trained in zip(LABELS, model.evaluated, strict=True) if not trained]


def scores_notice(*, meaningful: bool) -> str:
    """Return what has to stand wherever scores are shown; empty of a trained model's.

    Parameters
    ----------
    meaningful
        False of seeded weights, which are made for tests.
    """
    return "" if meaningful else "SEEDED WEIGHTS: THE SCORES MEAN NOTHING"
