"""PyTorch files put together byte by byte: sound ones, hostile ones, and ones that announce more than they hold."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np


def zip_container(pickled: bytes, **storages: bytes) -> bytes:
    """Return PyTorch's zip container; storages by ``k`` and their key."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        for key, content in storages.items():
            archive.writestr(f"a/data/{key.removeprefix('k')}", content)
    return buffer.getvalue()


def legacy_container(pickled: bytes, keys: list[str] | None = None, *storages: bytes, size: int = 4) -> bytes:
    """Return PyTorch's legacy container; each storage of numbers that take ``size`` bytes."""
    head = b"".join(
        pickle.dumps(x, 2)
        for x in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "protocol_version": 1001})
    )
    tail = b"".join(struct.pack("<q", len(content) // size) + content for content in storages)
    return head + pickled + pickle.dumps(keys or [], 2) + tail


class Call:
    """Pickled as a call."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.function = function
        self.arguments = arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


def hostile_pickles(target: Path) -> dict[str, bytes]:
    """Return pickles that would make a file if what they name were run, and other trespasses, by name."""
    touch = f"touch {target}".encode()
    return {
        "os.system": pickle.dumps(Call(os.system, touch.decode()), 2),
        "eval in a dict": pickle.dumps({"a": Call(eval, f"open({str(target)!r}, 'w').close()")}, 2),
        "popen": pickle.dumps(Call(subprocess.Popen, ["touch", str(target)]), 2),
        "protocol 0 INST": b"(S" + repr(touch.decode()).encode() + b"\nios\nsystem\n.",
        "protocol 1 OBJ": b"(cos\nsystem\nS" + repr(touch.decode()).encode() + b"\no.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93X"
        + struct.pack("<I", len(touch))
        + touch
        + b"\x85R.",
        "NEWOBJ_EX": b"\x80\x04cos\nsystem\n)}\x92.",
        "getattr": b"cbuiltins\ngetattr\n(cos\nsystem\nS'x'\ntR.",
        "exec": pickle.dumps(Call(exec, f"open({str(target)!r}, 'w').close()"), 2),
        "extension registry": b"\x80\x02\x82\x01.",
        "text persistent id": b"Pfoo\n.",
        "state of a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x0c\x00\x00\x00__defaults__)s\x86b.",
        "attributes of a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x08\x00\x00\x00__call__Ns\x86b.",
        "state of a class": b"\x80\x02ccollections\nOrderedDict\n}X\x06\x00\x00\x00update)s\x86b.",
        "state of the set class": b"\x80\x02c__builtin__\nset\nN}X\x03\x00\x00\x00addNs\x86b.",
        "empty": b"",
        "text": b"hello",
        "none": pickle.dumps(None, 2),
        "a list": pickle.dumps([1], 2),
        "a number in a dict": pickle.dumps({"weight": 1}, 2),
        "no STOP": pickle.dumps({}, 2)[:-1],
    }


def bombs() -> dict[str, bytes]:
    """Return pickles that announce or build far more than they are long, by name."""
    return {
        "memo": b"\x80\x02Nr\xff\xff\xff\x7f.",
        "bytearray": b"\x80\x05\x96" + (1 << 33).to_bytes(8, "little") + b".",
        "bytes": b"\x80\x04\x8e" + (1 << 33).to_bytes(8, "little") + b".",
        "frame": b"\x80\x04\x95" + (1 << 33).to_bytes(8, "little") + b"N.",
        "long": b"\x80\x02\x8b\xff\xff\xff\x7f.",
        "text": b"\x80\x02X\xff\xff\xff\xff.",
        "names": b"\x80\x02(" + b"".join(b"cm\n%d\n" % n for n in range(2000)) + b"l.",
        "depth": b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b".",
        "length": b"\x80\x02(" + b"}" * 5_000_000 + b"t.",
    }


def tensor_pickle(
    offset: object, shape: object, strides: object, count: object = 4, kind: str = "FloatStorage"
) -> bytes:
    """Return the pickle of a state dict with one tensor ``w`` over a storage of ``count`` numbers."""
    return b"\x80\x02}" + _text("w") + _tensor(offset, shape, strides, count, kind) + b"s."


def module_pickle(offset: object, shape: object, strides: object) -> bytes:
    """Return the pickle of a module with one parameter ``w`` and a module within it."""
    inner = b"cm\nInner\n)\x81}(" + _text("_modules") + b"}u" + b"b"
    weight = b"}" + _text("w") + _tensor(offset, shape, strides, 4, "FloatStorage") + b"s"
    state = _text("_parameters") + weight + _text("_modules") + b"}" + _text("inner") + inner + b"s"
    return b"\x80\x02cm\nOuter\n)\x81}(" + state + b"ub."


def _tensor(offset: object, shape: object, strides: object, count: object, kind: str) -> bytes:
    out = b"ctorch._utils\n_rebuild_tensor_v2\n("
    out += b"(" + _text("storage") + f"ctorch\n{kind}\n".encode() + _text("0") + _text("cpu")
    out += _plain(count) + b"tQ"
    return out + _plain(offset) + _plain(shape) + _plain(strides) + b"\x89}tR"


def tensor_file(offset: object, shape: object, strides: object, count: int = 4) -> bytes:
    """Return a zip container of that, over the numbers 0, 1, 2 …."""
    numbers = np.arange(max(count, 0), dtype="<f4").tobytes()
    return zip_container(tensor_pickle(offset, shape, strides, count), k0=numbers)


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _plain(value: object) -> bytes:
    """Return the opcodes of a plain value, without PROTO, memo and STOP."""
    return b"".join(_opcodes(value))


def _opcodes(value: object) -> list[bytes]:
    if isinstance(value, bool):
        return [b"\x88" if value else b"\x89"]
    if isinstance(value, int):
        size = (value.bit_length() >> 3) + 1
        return [b"\x8a", bytes([size]), value.to_bytes(size, "little", signed=True)]
    if isinstance(value, float):
        return [b"G", struct.pack(">d", value)]
    if isinstance(value, str):
        return [_text(value)]
    if isinstance(value, list):
        return [b"](", *(part for one in value for part in _opcodes(one)), b"e"]
    assert isinstance(value, tuple)
    return [b"(", *(part for one in value for part in _opcodes(one)), b"t"]
