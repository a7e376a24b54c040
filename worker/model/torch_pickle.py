"""Read the pickle inside a PyTorch file without running anything that it names.

Python's unpickler imports and calls whatever a pickle asks for. Here every class becomes an inert stand-in, and the
few names that PyTorch needs become callables that only describe a tensor. A pickle is inspected opcode by opcode
before it is read: one with opcodes that PyTorch doesn't write, as those that allocate what they only announce, is
refused.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: What Python's pickler writes under protocol 2, which PyTorch uses (torch/serialization.py, DEFAULT_PROTOCOL).
_OPCODES: Final = frozenset(
    "PROTO GLOBAL MARK STOP NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE EMPTY_TUPLE"
    " TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS BINPUT LONG_BINPUT BINGET"
    " LONG_BINGET REDUCE NEWOBJ BUILD BINPERSID".split()
)
#: Bytes; torchxrayvision's DenseNet takes 0.2 million. Objects in memory are up to a hundred times as large.
_MAX_PICKLE: Final = 2_000_000
#: torchxrayvision's DenseNet names 17.
_MAX_NAMES: Final = 500
#: NumPy's limit.
_MAX_DIMENSIONS: Final = 32
_STORAGES: Final = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "<?",
}


class NotATorchFile(ValueError):
    """The bytes are not a PyTorch file, are damaged, or hold something that isn't read."""


class _Unchangeable:
    """What a pickle's BUILD can't change: it would otherwise set any attribute."""

    __slots__ = ()

    def __setstate__(self, _state: object) -> None:
        raise NotATorchFile("it changes what it may not")


class Storage(_Unchangeable):
    """Numbers in the file; the container's reader fills in their bytes once the whole pickle was read."""

    __slots__ = ("content", "count", "dtype")

    def __init__(self, dtype: np.dtype[Any], count: int) -> None:
        self.dtype = dtype
        self.count = count
        self.content: memoryview | bytes | None = None

    @property
    def size(self) -> int:
        """How many bytes the file holds for it."""
        return self.count * self.dtype.itemsize


class Tensor(_Unchangeable):
    """A view of a storage: offset, shape and strides in elements.

    Parameters
    ----------
    storage
        The numbers that it is a view of.
    offset
        Of its first element in the storage, in elements.
    shape
        Elements along each axis.
    strides
        Elements from one index to the next along each axis.
    """

    __slots__ = ("offset", "shape", "storage", "strides")

    def __init__(
        self, storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> None:
        self.storage = storage
        self.offset = offset
        self.shape = shape
        self.strides = strides

    def array(self) -> NDArray[Any]:
        """Return the view, read-only; it shares the file's bytes.

        Raises
        ------
        NotATorchFile
            It reaches beyond its storage.
        """
        if self.storage.content is None:
            raise NotATorchFile("a tensor's numbers are missing")
        flat = np.frombuffer(self.storage.content, self.storage.dtype)
        count = math.prod(self.shape)
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        # More numbers than are stored (a stride of 0) would let a small file fill the memory.
        if (
            min((self.offset, *self.shape, *self.strides)) < 0
            or len(self.shape) > _MAX_DIMENSIONS
            or count > len(flat)
            or (count and last >= len(flat))
        ):
            raise NotATorchFile("a tensor reaches beyond its numbers")
        if not count:
            return np.empty(self.shape, self.storage.dtype)
        width = self.storage.dtype.itemsize
        return np.lib.stride_tricks.as_strided(
            flat[self.offset :], self.shape, [step * width for step in self.strides], writeable=False
        )


class Object:
    """Stands for an object of any class that a file names: keeps what the file says of it, and does nothing."""

    state: object = None

    def __new__(cls, *_args: object, **_named: object) -> Object:
        """Take whatever the file gives."""
        return object.__new__(cls)

    def __init__(self, *_args: object, **_named: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        """Keep what BUILD brings."""
        self.state = state

    # What unpickling calls for lists, sets and dicts that are subclassed.
    def append(self, _item: object) -> None:
        """Ignore an item."""

    def extend(self, _items: object) -> None:
        """Ignore items."""

    def add(self, _item: object) -> None:
        """Ignore an item."""

    def __setitem__(self, _key: object, _value: object) -> None:
        """Ignore an entry."""


class _Dict(dict[Any, Any]):
    """Stands for collections.OrderedDict; a state dict carries an attribute with versions, which nobody needs."""

    __slots__ = ()

    def __setstate__(self, _state: object) -> None:
        pass


class _RebuildTensor(_Unchangeable):
    """Stands for torch._utils._rebuild_tensor and _rebuild_tensor_v2."""

    __slots__ = ()

    def __call__(
        self, storage: object, offset: object, shape: object, strides: object, *_rest: object
    ) -> Tensor:
        if not isinstance(storage, Storage) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
            raise NotATorchFile("a tensor is described in an unknown way")
        if not all(type(number) is int for number in (offset, *shape, *strides)):
            raise NotATorchFile("a tensor is described in an unknown way")
        assert isinstance(offset, int)  # noqa: S101  # checked above, for the type checker
        return Tensor(storage, offset, shape, strides)


class _RebuildParameter(_Unchangeable):
    """Stands for torch._utils._rebuild_parameter: a parameter is its tensor."""

    __slots__ = ()

    def __call__(self, data: object, *_rest: object) -> object:
        return data


class PickleReader(pickle.Unpickler):
    """An unpickler in which no name of the file means anything but the few below.

    Parameters
    ----------
    content
        One pickle, which `inspect_pickle` has passed.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self.names: dict[tuple[str, str], Any] = {}
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:  # as the base class has it
        """Give a stand-in for a class or function; nothing is imported."""
        if (module, name) not in self.names:
            if len(self.names) == _MAX_NAMES:
                raise NotATorchFile("it names too many classes")
            self.names[module, name] = _stand_in(module, name)
        return self.names[module, name]

    def persistent_load(self, pid: object) -> object:
        """Give the storage that a persistent id describes, or the class of a legacy module."""
        match pid:
            case ("module", type() as cls, *_source):  # legacy: a class with its source, which nobody needs
                return cls
            case ("storage", type() as kind, str() as key, _location, int() as count, *view) if hasattr(
                kind, "dtype"
            ):
                if view not in ([], [None]):
                    raise NotATorchFile("views of storages aren't read: the file is older than PyTorch 0.4")
                storage = self.storages.setdefault(key, Storage(kind.dtype, count))
                if storage.dtype != kind.dtype or storage.count != count or count < 0:
                    raise NotATorchFile("a storage is described twice, differently")
                return storage
        raise NotATorchFile("a storage is described in an unknown way")


def _stand_in(module: str, name: str) -> Any:
    if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
        return _RebuildTensor()
    if module == "torch._utils" and name == "_rebuild_parameter":
        return _RebuildParameter()
    if module == "torch" and name in _STORAGES:
        return type(name, (Object,), {"dtype": np.dtype(_STORAGES[name])})
    if (module, name) == ("collections", "OrderedDict"):
        return _Dict
    if module in ("builtins", "__builtin__") and name == "set":
        return set
    return type(name, (Object,), {"__module__": module})


def inspect_pickle(content: bytes, start: int = 0) -> int:
    """Look through the pickle that begins at an offset, without reading it; return where it ends.

    Raises
    ------
    NotATorchFile
        It holds an opcode that PyTorch doesn't write, or numbers its objects with gaps, or is too long.
    """
    file = io.BytesIO(content[start : start + _MAX_PICKLE])
    kept = 0
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name not in _OPCODES:
            raise NotATorchFile(f"PyTorch doesn't write the opcode {opcode.name}")
        if opcode.name in ("BINPUT", "LONG_BINPUT"):
            if not isinstance(argument, int) or argument > kept:  # the unpickler makes a table of that size
                raise NotATorchFile("it numbers its objects in an unknown way")
            kept += 1
    return start + file.tell()
