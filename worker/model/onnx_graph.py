"""Write an ONNX file without the onnx package: the few messages that a network of convolutions needs.

Field numbers are those of onnx.proto3 (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3); protobuf never
renumbers a field. The onnx package's own checker passes the result in the tests.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from backlog.model import PRODUCT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

#: Supported by every ONNX Runtime since 1.12.
_OPSET: Final = 17
#: Of ONNX 1.12, which opset 17 came with.
_IR_VERSION: Final = 8
_FLOAT: Final = 1  # TensorProto.DataType
_ATTRIBUTE_FLOAT, _ATTRIBUTE_INT, _ATTRIBUTE_INTS = 1, 2, 7  # AttributeProto.AttributeType


def _varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _field(number: int, value: bytes | str | int | float) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    if isinstance(value, float):
        return _varint(number << 3 | 5) + struct.pack("<f", value)
    content = value.encode() if isinstance(value, str) else value
    return _head(number, len(content)) + content


def _head(number: int, size: int) -> bytes:
    """Return what stands before the content of a field of bytes."""
    return _varint(number << 3 | 2) + _varint(size)


def _attribute(name: str, value: int | float | Sequence[int]) -> bytes:
    if isinstance(value, int):
        return _field(1, name) + _field(3, value) + _field(20, _ATTRIBUTE_INT)
    if isinstance(value, float):
        return _field(1, name) + _field(2, value) + _field(20, _ATTRIBUTE_FLOAT)
    return _field(1, name) + b"".join(_field(8, number) for number in value) + _field(20, _ATTRIBUTE_INTS)


def _value_info(name: str, shape: Sequence[int | str]) -> bytes:
    dims = b"".join(_field(1, _field(1, n) if isinstance(n, int) else _field(2, n)) for n in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, _FLOAT) + _field(2, dims)))


@dataclass
class OnnxGraph:
    """Nodes in order of computation; the single output of a node has the node's name."""

    nodes: list[bytes] = field(default_factory=list)
    constants: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def constant(self, name: str, array: NDArray[np.float32]) -> str:
        """Add numbers under a name.

        Raises
        ------
        ValueError
            The name is taken.
        """
        if name in self.constants:
            raise ValueError(f"{name} is there twice")
        self.constants[name] = array
        return name

    def node(self, op: str, name: str, *inputs: str, **attributes: int | float | Sequence[int]) -> str:
        """Add one operation; return the name of its result.

        Parameters
        ----------
        op
            The ONNX operator's name.
        name
            The name of the node and of its result.
        *inputs
            Names of the tensors that it takes.
        **attributes
            The operator's attributes.
        """
        self.nodes.append(
            b"".join(
                [
                    *(_field(1, each) for each in inputs),
                    _field(2, name),
                    _field(3, name),
                    _field(4, op),
                    *(_field(5, _attribute(key, value)) for key, value in attributes.items()),
                ]
            )
        )
        return name

    def encode(
        self, inputs: Mapping[str, Sequence[int | str]], outputs: Mapping[str, Sequence[int | str]]
    ) -> bytes:
        """Return the bytes of an ONNX file.

        Parameters
        ----------
        inputs, outputs
            Shape of each by its name, all float32; a name instead of a number stands for any size.
        """
        # The numbers are copied once, into the result.
        graph: list[bytes] = [*(_field(1, node) for node in self.nodes), _field(2, "main_graph")]
        for name, array in self.constants.items():
            graph += _initializer(name, array)
        graph += [_field(11, _value_info(*each)) for each in inputs.items()]
        graph += [_field(12, _value_info(*each)) for each in outputs.items()]
        return b"".join(
            [
                _field(1, _IR_VERSION),
                _field(2, PRODUCT),
                _head(7, sum(map(len, graph))),
                *graph,
                _field(8, _field(2, _OPSET)),
            ]
        )


def _initializer(name: str, array: NDArray[np.float32]) -> list[bytes]:
    """Return a constant of the graph (GraphProto.initializer, a TensorProto) in parts."""
    numbers = array.astype("<f4").tobytes()
    dims = b"".join(map(_varint, array.shape))
    before = b"".join(
        [_field(1, dims) if array.ndim else b"", _field(2, _FLOAT), _field(8, name), _head(9, len(numbers))]
    )
    return [_head(5, len(before) + len(numbers)), before, numbers]
