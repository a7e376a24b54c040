"""Changes to a PyTorch file that know its form: opcodes of its pickle are dropped, doubled, moved, or put in."""

from __future__ import annotations

import io
import pickletools
import zipfile
from random import Random
from typing import Final

from tests.support.torch_files import tensor_pickle

#: What may be put between two opcodes.
_PIECES: Final = (
    *(
        b"N",
        b"\x88",
        b"(",
        b")",
        b"}",
        b"]",
        b"t",
        b"R",
        b"b",
        b"\x81",
        b"Q",
        b"s",
        b"u",
        b"e",
        b"a",
        b"0",
        b"2",
    ),
    *(
        b"cos\nsystem\n",
        b"ccollections\nOrderedDict\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"c__builtin__\nset\n",
    ),
    *(b"ctorch._utils\n_rebuild_parameter\n", b"ctorch\nDoubleStorage\n", b"X\x08\x00\x00\x00_modules"),
    *(
        b"K\x00",
        b"K\x03",
        b"J\xff\xff\xff\xff",
        b"\x8a\x09" + bytes(8) + b"\x01",
        b"G" + bytes(8),
        b"h\x00",
        b"q\x00",
    ),
    *(b"r\xff\xff\xff\x7f", b"j\xff\xff\xff\x7f", b"X\xff\xff\xff\x7f", b"\x8b\xff\xff\xff\x7f", b"\x82\x01"),
    *(tensor_pickle(0, (2,), (1,))[2:-1], tensor_pickle(1, (2, 2), (0, 1))[2:-1]),
)


def torch_changed(file: bytes, seed: int) -> bytes | None:
    """Return a PyTorch file with a changed pickle; None for one that isn't one."""
    random = Random(seed)
    try:
        return _zip_changed(file, random) if file[:2] == b"PK" else _legacy_changed(file, random)
    except Exception:  # noqa: BLE001  # earlier changes may have left anything
        return None


def _legacy_changed(file: bytes, random: Random) -> bytes:
    ends = [0]
    for _ in range(random.choice((4, 4, 4, 5))):  # the fourth is the main one, the fifth names the storages
        stream = io.BytesIO(file[ends[-1] :])
        for _ in pickletools.genops(stream):
            pass
        ends.append(ends[-1] + stream.tell())
    return file[: ends[-2]] + _pickle_changed(file[ends[-2] : ends[-1]], random) + file[ends[-1] :]


def _zip_changed(file: bytes, random: Random) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(file)) as archive, zipfile.ZipFile(out, "w") as made:
        for name in archive.namelist():
            content = archive.read(name)
            made.writestr(name, _pickle_changed(content, random) if name.endswith(".pkl") else content)
    return out.getvalue()


def _pickle_changed(pickled: bytes, random: Random) -> bytes:
    starts = [start for _, _, start in pickletools.genops(pickled) if start is not None]
    pieces = [pickled[a:b] for a, b in zip(starts, [*starts[1:], len(pickled)], strict=True)]
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(1, len(pieces))
        match random.randrange(4):
            case 0:
                del pieces[at]
            case 1:
                pieces.insert(at, random.choice(pieces))
            case 2:
                pieces.insert(at, random.choice(_PIECES))
            case _:
                other = random.randrange(1, len(pieces))
                pieces[at], pieces[other] = pieces[other], pieces[at]
        if len(pieces) < 2:
            break
    return b"".join(pieces)
