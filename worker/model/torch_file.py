"""Read PyTorch's files without PyTorch: the tensors of a state dict or of a pickled module, as numpy arrays.

::

    bytes ──┬─ "PK": zip of data.pkl and data/KEY ─┐
            └─ pickles, then the storages raw ─────┴─▶ stand-ins ──▶ {name: array}

Both of PyTorch's containers since 2017 are read: the zip (its default since 1.6) and what it calls the legacy one,
which torchxrayvision's DenseNets were released in. Tar files, from before PyTorch 0.1.11 (2017), aren't. Nothing that
a file names is imported or run (`worker.model.torch_pickle`).
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from worker.model.torch_pickle import NotATorchFile, Object, PickleReader, Storage, Tensor, inspect_pickle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

#: torch/serialization.py: what the first two pickles of a legacy file hold.
_MAGIC: Final = 0x1950A86A20F9469CFC6C
_PROTOCOL: Final = 1001
#: Of modules within modules; torchxrayvision's DenseNet has 4.
_MAX_DEPTH: Final = 50


@dataclass(frozen=True)
class TorchFile:
    """What a PyTorch file holds."""

    kind: str  #: ``a state dict``, or which module it is
    tensors: dict[
        str, NDArray[Any]
    ]  #: by the names that ``state_dict()`` gives them, in its order; read-only


def read_torch_file(content: bytes) -> TorchFile:
    """Read every tensor of a state dict or of a pickled module.

    Raises
    ------
    NotATorchFile
        The bytes are not a PyTorch file, are damaged, or hold neither.
    """
    try:
        found = _zipped(content) if content[:2] == b"PK" else _legacy(content)
        tensors = dict(_named_tensors(found))
        kind = f"a pickled {_class_name(found)}" if isinstance(found, Object) else "a state dict"
        return TorchFile(kind, {name: tensor.array() for name, tensor in tensors.items()})
    except (NotATorchFile, MemoryError):
        raise
    except Exception as error:  # unpickling raises whatever damaged bytes lead to
        raise NotATorchFile(f"damaged, or not a PyTorch file ({type(error).__name__})") from error


def _zipped(content: bytes) -> object:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1 or any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
            raise NotATorchFile("a zip archive, but not one that PyTorch wrote")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in members and archive.read(f"{folder}byteorder") != b"little":
            raise NotATorchFile("written on a big-endian machine")
        pickled = archive.read(pickles[0])
        inspect_pickle(pickled)
        reader = PickleReader(pickled)
        found = reader.load()
        _check_sizes(reader, len(content))
        for key, storage in reader.storages.items():
            part = archive.read(f"{folder}data/{key}")
            if len(part) != storage.size:
                raise NotATorchFile("a storage has another length than announced")
            storage.content = part
    return found


def _legacy(content: bytes) -> object:
    magic, offset = _plain(content, 0)
    protocol, offset = _plain(content, offset)
    if (magic, protocol) != (_MAGIC, _PROTOCOL):
        raise NotATorchFile("not a PyTorch file")
    machine, offset = _plain(content, offset)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise NotATorchFile("written on a big-endian machine")
    end = inspect_pickle(content, offset)
    reader = PickleReader(content[offset:end])
    found = reader.load()
    keys, offset = _plain(content, end)
    if not isinstance(keys, list) or len(keys) != len(reader.storages) or set(keys) != reader.storages.keys():
        raise NotATorchFile("the list of storages doesn't fit")
    _check_sizes(reader, len(content))
    whole = memoryview(content)
    for key in keys:
        storage = reader.storages[key]
        start = offset + 8
        if int.from_bytes(whole[offset:start], "little") != storage.count or start + storage.size > len(
            whole
        ):
            raise NotATorchFile("a storage has another length than announced")
        storage.content = whole[start : start + storage.size]
        offset = start + storage.size
    if offset != len(whole):
        raise NotATorchFile("there are bytes after the last storage")
    return found


def _plain(content: bytes, start: int) -> tuple[object, int]:
    """Read a pickle that holds neither classes nor tensors; return it and where it ends."""
    end = inspect_pickle(content, start)
    reader = PickleReader(content[start:end])
    found = reader.load()
    if reader.names or reader.storages:
        raise NotATorchFile("not a PyTorch file")
    return found, end


def _check_sizes(reader: PickleReader, most: int) -> None:
    storages: list[Storage] = list(reader.storages.values())
    if sum(storage.size for storage in storages) > most:
        raise NotATorchFile("it announces more numbers than it holds")


def _named_tensors(found: object) -> Iterator[tuple[str, Tensor]]:
    if isinstance(found, Object):
        yield from _of_module(found, "", set(), 0)
        return
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise NotATorchFile(f"it holds neither a state dict nor a module, but a {type(found).__name__}")
    for name, value in found.items():
        if not isinstance(value, Tensor):
            raise NotATorchFile(
                f"it holds neither a state dict nor a module: {name[:80]!r} is a {type(value).__name__},"
                " not a tensor"
            )
        yield name, value


def _class_name(found: Object) -> str:
    """Return a class's name as the file has it, fit for a message."""
    return ascii(f"{type(found).__module__}.{type(found).__name__}"[:80])[1:-1]


def _of_module(module: Object, prefix: str, seen: set[int], depth: int) -> Iterator[tuple[str, Tensor]]:
    """Walk a module as ``torch.nn.Module.state_dict`` does."""
    state = module.state
    if not isinstance(state, dict) or not isinstance(state.get("_modules"), dict):
        raise NotATorchFile(f"it holds neither a state dict nor a module, but a {_class_name(module)}")
    if id(module) in seen or depth > _MAX_DEPTH:  # a module may not hold itself
        raise NotATorchFile(f"the module {prefix!r} is there twice")
    seen.add(id(module))
    # Modules pickled before PyTorch 1.6 have no such set (pytorch issue 42242).
    left_out = state.get("_non_persistent_buffers_set")
    for kind in ("_parameters", "_buffers"):
        for name, value in (state.get(kind) or {}).items():
            if isinstance(value, Tensor) and not (isinstance(left_out, set) and name in left_out):
                yield f"{prefix}{name}", value
    for name, inner in state["_modules"].items():
        if isinstance(inner, Object):
            yield from _of_module(inner, f"{prefix}{name}.", seen, depth + 1)
