"""Which weights a model may have, known by their SHA-256: what both sides can tell without the files."""

from __future__ import annotations

from typing import Final

from backlog.model import DEFAULT_MODEL

#: Of the released files, by model; absent where fewer than two independent sources state it. Many public repositories
#: state this one; of the others one does at most, which proves nothing.
RELEASE_SHA256: Final = {
    DEFAULT_MODEL: "56524913dd16a906422e8d8b66a7a5c46be1d82eb7ac012d8103776f1aa68899",
}

#: The weights made from a fixed seed: right in shape, without any meaning.
SEEDED_NAME: Final = "seeded"
#: Of the files that `worker.model.seeded_weights` writes, by model. They name seeded weights wherever their file lies.
SEEDED_SHA256: Final = {
    "densenet121-res224-all": "29a0a76993824d4651f272c8137c2a4c5083dccb4ebd8275e5bdeba20a8421e0",
    "densenet121-res224-nih": "c817b79c07753af7af5c58c1d8583f03544467dcf0614a3185479fdfc07fe161",
    "densenet121-res224-pc": "a84fb28d6d99dce5c95873ffc1d0747b791aa3b3e85c8fc83a94d64f6955b914",
    "densenet121-res224-chex": "0cc8c197cc8ca69159bf4352332548cdf6f5029a1c819b091648f5d1bff4ee26",
    "densenet121-res224-rsna": "8fe505c04bcacf01a767f744b123fd8d8d1432b624ed0706fc9a28bfafd5c108",
    "densenet121-res224-mimic_nb": "bafeae39a6da9ac62da297adea26faee1c9fb459a437b677b1156d95e43c3493",
    "densenet121-res224-mimic_ch": "4d3ea037f9fb56f6b60e50c2d1c2594396073c35e80733972dc47e7a6dd17ff5",
    "resnet50-res512-all": "e56e198ce84c7acc734eabeafd720504562952c947cc13f4c1df19079dfb2ad9",
}


def expected_sha256(weights: str, sha256: str, model: str) -> str:
    """Return the SHA-256 that weights have to have by the settings; empty where they leave it open.

    Parameters
    ----------
    weights, sha256, model
        CXR_WEIGHTS, CXR_WEIGHTS_SHA256 and CXR_MODEL.
    """
    if weights == SEEDED_NAME:
        return SEEDED_SHA256[model]
    return sha256.strip().lower() or RELEASE_SHA256.get(model, "")


def is_seeded(sha256: str) -> bool:
    """Whether these are seeded weights, whose scores mean nothing."""
    return sha256 in SEEDED_SHA256.values()


def settings_for(sha256: str, model: str) -> str:
    """Return the settings of a worker with some weights, as a user writes them before a command.

    Parameters
    ----------
    sha256
        Of the weights.
    model
        Whose weights they are.
    """
    of_model = f"CXR_MODEL={model}" if model != DEFAULT_MODEL else ""
    if sha256 == RELEASE_SHA256.get(model):
        return of_model
    if sha256 == SEEDED_SHA256.get(model):
        return f"{of_model} CXR_WEIGHTS={SEEDED_NAME}".strip()
    return f"{of_model} CXR_WEIGHTS_SHA256={sha256}".strip()
