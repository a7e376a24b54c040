"""Weights drawn from a fixed seed: right in shape, without any meaning, the same bytes on every machine.

They are for demonstrations and tests where the released weights can't be had. They are scaled so that a radiograph's
scores spread around 0.5: saturated ones would hide differences.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    Shapes = Iterator[tuple[str, tuple[int, ...]]]

#: torchxrayvision 1.5.7, models.py, DenseNet: layers of each block, channels that each adds, channels within it.
_BLOCKS: Final = (6, 12, 24, 16)
_GROWTH: Final = 32
_INNER: Final = 128
#: torchvision's resnet50: bottlenecks of each stage, and by how much they widen.
_STAGES: Final = (3, 4, 6, 3)
_EXPANSION: Final = 4

_STORAGES: Final = {"<f4": "FloatStorage", "<i8": "LongStorage"}


def seeded_file(architecture: str, points: Sequence[float], seed: int = 0) -> bytes:
    """Write a state dict in PyTorch's zip container, which PyTorch reads too.

    Parameters
    ----------
    architecture
        ``densenet121`` or ``resnet50``.
    points
        The operating points, which the classifier's bias is set to; NaN for a label without.
    seed
        Of the random numbers.
    """
    return _torch_file(seeded_state(architecture, points, seed))


def seeded_state(architecture: str, points: Sequence[float], seed: int = 0) -> dict[str, NDArray[Any]]:
    """Draw the numbers.

    Parameters
    ----------
    architecture
        ``densenet121`` or ``resnet50``.
    points
        The operating point of each label.
    seed
        Of the random numbers; the same seed gives the same weights.
    """
    # Uniform float32 numbers are exact integer arithmetic; normal ones depend on the vector unit.
    generator = np.random.default_rng(seed)
    shapes, head = {"densenet121": (densenet121, "classifier"), "resnet50": (resnet50, "fc")}[architecture]
    state: dict[str, NDArray[Any]] = {}
    for name, shape in shapes(len(points)):
        if name.endswith("num_batches_tracked"):
            state[name] = np.zeros(shape, np.int64)
            continue
        low, high = _range(name, shape)
        numbers = generator.random(shape, dtype=np.float32)
        state[name] = numbers * np.float32(high - low) + np.float32(low)
    limits = np.nan_to_num(np.array(points, np.float32).astype(np.float64), nan=0.5)
    state[f"{head}.bias"] = np.log(limits / (1 - limits)).astype(np.float32)
    return state


def densenet121(labels: int) -> Shapes:
    """Give name and shape of each tensor of torchxrayvision's DenseNet-121, in the order of its ``state_dict()``."""
    channels = 64
    yield "features.conv0.weight", (channels, 1, 7, 7)
    yield from _norm("features.norm0", channels)
    for block, layers in enumerate(_BLOCKS, 1):
        for layer in range(1, layers + 1):
            name = f"features.denseblock{block}.denselayer{layer}"
            yield from _norm(f"{name}.norm1", channels)
            yield f"{name}.conv1.weight", (_INNER, channels, 1, 1)
            yield from _norm(f"{name}.norm2", _INNER)
            yield f"{name}.conv2.weight", (_GROWTH, _INNER, 3, 3)
            channels += _GROWTH
        if block < len(_BLOCKS):
            name = f"features.transition{block}"
            yield from _norm(f"{name}.norm", channels)
            yield f"{name}.conv.weight", (channels // 2, channels, 1, 1)
            channels //= 2
    yield from _norm("features.norm5", channels)
    yield "classifier.weight", (labels, channels)
    yield "classifier.bias", (labels,)


def resnet50(labels: int) -> Shapes:
    """Give name and shape of each tensor of torchvision's resnet50 with one input channel, in its order."""
    channels = 64
    yield "conv1.weight", (channels, 1, 7, 7)
    yield from _norm("bn1", channels)
    for stage, blocks in enumerate(_STAGES, 1):
        inner = 64 << stage - 1
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            yield f"{name}.conv1.weight", (inner, channels, 1, 1)
            yield from _norm(f"{name}.bn1", inner)
            yield f"{name}.conv2.weight", (inner, inner, 3, 3)
            yield from _norm(f"{name}.bn2", inner)
            yield f"{name}.conv3.weight", (inner * _EXPANSION, inner, 1, 1)
            yield from _norm(f"{name}.bn3", inner * _EXPANSION)
            if block == 0:
                yield f"{name}.downsample.0.weight", (inner * _EXPANSION, channels, 1, 1)
                yield from _norm(f"{name}.downsample.1", inner * _EXPANSION)
            channels = inner * _EXPANSION
    yield "fc.weight", (labels, channels)
    yield "fc.bias", (labels,)


def _norm(name: str, channels: int) -> Shapes:
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{part}", (channels,)
    yield f"{name}.num_batches_tracked", ()


def _range(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Keep the variance of one through the network: He initialisation, and batch norms that do little."""
    if name in ("features.norm0.running_var", "bn1.running_var"):
        # 500 is the deviation of a typical image on the ±1024 scale; the first convolution doubles its square.
        return 1.6 * 500.0**2, 2.4 * 500.0**2
    if name == "classifier.weight":
        return -0.09, 0.09  # logits of about ±1 around the operating points
    if name == "fc.weight":
        return -0.005, 0.005  # the same
    if name.endswith("bn3.weight"):
        return 0.2, 0.4  # each bottleneck adds to what it was given
    if len(shape) == 4:
        bound = math.sqrt(6 / math.prod(shape[1:]))
        return -bound, bound
    if name.endswith(("running_mean", "bias")):
        return -0.1, 0.1
    return 0.8, 1.2


def _torch_file(state: Mapping[str, NDArray[Any]]) -> bytes:
    """Write a state dict as ``torch.save`` does, its pickle opcode by opcode: nothing has to be imported for it."""
    out = bytearray(b"\x80\x02ccollections\nOrderedDict\n)R(")
    for key, (name, array) in enumerate(state.items()):
        strides = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
        out += _text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(("
        out += _text("storage") + f"ctorch\n{_STORAGES[array.dtype.str]}\n".encode() + _text(str(key))
        out += _text("cpu") + _integer(array.size) + b"tQ" + _integer(0)
        out += _tuple(array.shape) + _tuple(strides) + b"\x89ccollections\nOrderedDict\n)RtR"
    out += b"u."
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for member, content in (
            ("data.pkl", bytes(out)),
            ("byteorder", b"little"),
            *((f"data/{key}", array.tobytes()) for key, array in enumerate(state.values())),
            ("version", b"3\n"),
        ):
            archive.writestr(zipfile.ZipInfo(f"seeded/{member}"), content)  # dated 1980, by default
    return file.getvalue()


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def _integer(number: int) -> bytes:
    return b"J" + struct.pack("<i", number)


def _tuple(numbers: Sequence[int]) -> bytes:
    return b"(" + b"".join(map(_integer, numbers)) + b"t"
