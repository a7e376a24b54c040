"""The findings that the model scores, in the order of its outputs."""

from __future__ import annotations

from typing import Final

#: Output k of the model is label k: torchxrayvision 1.5.7, models.py, model_urls["densenet121-res224-all"].
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


#: Raise when the model's input for the same image changes (worker/pixels/preprocess.py): the scores may then differ.
PREPROCESSING: Final = "2"


MODEL: Final = "densenet121-res224-all"


#: In Manufacturer and similar places: by it the system knows its own reports and files.
PRODUCT: Final = "cxr-backlog"


def scores_notice(*, meaningful: bool) -> str:
    """Return what has to stand wherever scores are shown; empty of a trained model's.

    Parameters
    ----------
    meaningful
        False of seeded weights, which are made for tests.
    """
    return "" if meaningful else "SEEDED WEIGHTS: THE SCORES MEAN NOTHING"
