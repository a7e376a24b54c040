"""Every message that a user may read, found in the source, for the catalogues of translations.

``python -m tests.support.messages`` writes what is new into each catalogue, untranslated, and drops what is gone.
"""

from __future__ import annotations

import ast
import errno
import os
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import polib

from backlog.model import scores_notice
from backlog.outcomes import Outcome
from backlog.settings import Settings
from producer.cli.help import help_messages
from producer.cli.main import main
from producer.plan import ADVICE
from producer.results.meanings import MEANINGS
from producer.translation import FOLDER, PLACEHOLDER
from tests.support.servers import ROOT

#: Calls whose text a user reads, and the positions of the arguments that hold it.
SPEAKING = {
    **dict.fromkeys(
        ("t", "echo", "say", "row", "BadParameter", "UsageError", "BacklogError", "Stopped"), (0,)
    ),
    **dict.fromkeys(
        (
            *("ServiceUnavailable", "StorageFull", "SourceUnavailable", "ModalityFailed"),
            *("LedgerFenced", "DeletionUnsupported", "unwritable"),
        ),
        (0,),
    ),
    **dict.fromkeys(("_unsupported", "_broken", "_undecodable"), (0,)),
    **dict.fromkeys(("NotATorchFile", "DoesNotFit", "MalformedReport", "NotAnswered"), (0,)),
    **dict.fromkeys(("say_beside", "InstanceRejected", "refuse", "never_silent", "_Died"), (1,)),
    "Check": (2, 3),
    "warn": (1,),
    "notify": (0,),
    "doing": (0,),
}

#: Calls whose text no user of a command reads: programmers' errors, what only programs see (Lua, DICOM codes, numbers
#: for Prometheus), signals between our own parts, and the worker's own command line, which is English.
SILENT = frozenset(
    (
        *(
            "ValueError",
            "TypeError",
            "RuntimeError",
            "AssertionError",
            "FileExistsError",
            "NotImplementedError",
        ),
        *("LuaScript", "Histogram", "Counter", "gauge", "gauges", "CounterMetricFamily", "GaugeMetricFamily"),
        *(
            "ClaimLost",
            "RunCancelled",
            "RunPaused",
            "Reject",
            "GivenUp",
            "split",
            "Path",
            "Code",
            "CodingScheme",
        ),
        *("add_argument", "ArgumentTypeError"),
    )
)

#: Modules whose texts are for files that programs or other people read: DICOM objects, a document.
SILENT_MODULES = (
    *("worker/sr/codes_doc.py", "worker/derived/dicom.py", "worker/ingest/identifiers.py"),
    *("producer/demo/iods.py",),
)

#: Three words in a row, as no address, query or name has them.
_SENTENCE = re.compile(r"(?<![\w./<=-])[A-Za-z][A-Za-z']* [a-z][a-z']* [a-z][a-z']*(?![\\\w./=>(])")

_QUERY = re.compile(r"(SELECT|INSERT|UPDATE|DELETE|CREATE|FROM|WHERE|WITH|ALTER|DROP|PRAGMA|REPLACE) ")

#: What commands call the lines that they print.
_LINES = ("lines", "also", "more", "text")

#: The folders whose errors reach a user's terminal or lists.
FOLDERS = ("backlog", "producer", "worker")

#: What the system says of files and servers, which stands in brackets in our messages.
SYSTEM_ERRORS = (
    *(
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EEXIST,
        errno.ELOOP,
    ),
    *(errno.ENAMETOOLONG, errno.EINVAL, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EBUSY),
    *(errno.ENOTEMPTY, errno.ENODEV, errno.ENXIO, errno.ETXTBSY, errno.EFBIG, errno.EMFILE, errno.ENFILE),
    *(
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.ETIMEDOUT,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.EPIPE,
    ),
)

#: Words that stand alone where a message is put together.
WORDS = (
    *(one.value for one in Outcome),
    *(
        "retrieve",
        "upload",
        "infer",
        "report",
        "listing",
        "running",
        "paused",
        "cancelled",
        "complete",
        "interrupted",
    ),
    *(
        "a zip in the folder",
        "Missing",
        "Different",
        "Twice",
        "Item",
        "Name",
        "Outcome",
        "Reason",
        "Detail",
        "Stage",
        "Attempts",
        "Ended",
    ),
    *("Flags", "Instance in the PACS", "SOP Instance UID", "Study Instance UID", "Report's SOP Instance UID"),
    *(
        "Report in the PACS",
        "Report written by",
        "this run",
        "an earlier run",
        "Time left",
        "Waiting",
        "To look at",
        "about ",
        "look",
        *("whole number", "decimal number"),
        # the system's
        *map(os.strerror, SYSTEM_ERRORS),
        *("queued", "stopped", "unreadable", "Misfiled", "Unanswered", "Unrecorded"),
    ),
    *(f"This file would be {outcome.value}" for outcome in Outcome),
    # click's
    *("Missing argument '{name}'.", "Missing option '{name}'.", "No such command '{name}'."),
    *("No such option: {name}", "No such option '{name}'.", "Option '{name}' requires an argument."),
    *(
        "No such command '{name}'. Did you mean {possibility}?",
        "No such option '{name}'. Did you mean {possibility}?",
    ),
    *("Invalid value for '{name}': {reason}", "Invalid value for {name}: {reason}", "Missing command."),
    *(
        "{value} is not a valid integer.",
        "{value} is not in the range {range}.",
        "{value} is not one of {choices}.",
    ),
    *("File '{name}' does not exist.", "File '{name}' is a directory.", "Directory '{name}' is a file."),
    *(
        "Path '{name}' does not exist.",
        "Got unexpected extra argument ({args})",
        "Got unexpected extra arguments ({args})",
    ),
)


def messages() -> list[str]:
    """Return every message once, in the order of the source."""
    found = [
        *help_messages(main),
        *(field.metadata["help"] for field in fields(Settings)),
        *MEANINGS.values(),
        *ADVICE.values(),
        scores_notice(meaningful=False),
        *WORDS,
    ]
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found += _spoken(tree, cli=not {"cli", "doctor"}.isdisjoint(path.parts))
            if path.relative_to(ROOT).as_posix() not in SILENT_MODULES:
                found += _sentences(tree)
    return [
        message
        for message in dict.fromkeys(found)
        if re.search(r"[A-Za-z]{2}", re.sub(r"\{\w+\}|cxr-backlog: ", "", message))
    ]


def _sentences(node: ast.AST) -> Iterator[str]:
    """Yield every text of a module that reads as one, wherever it stands, unless no user comes to see it.

    Texts reach users on ways that nobody sees here: as an argument, a field, a value of a message. So what reads as a
    sentence is a message until it is said not to be one (`SILENT`).
    """
    if isinstance(node, ast.Call) and _name(node.func) in SILENT:
        return
    if isinstance(node, (ast.Assert, ast.Compare)) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ):
        return  # a docstring, what only programmers see, what another program's text is compared with
    if isinstance(node, (ast.Constant, ast.JoinedStr)):
        for text in _texts(node):
            words = re.findall("[A-Za-z]{2,}", PLACEHOLDER.sub("", text))
            if (
                len(words) > 1
                and _SENTENCE.search(PLACEHOLDER.sub("x", text))
                and not _QUERY.match(text.strip())
            ):
                yield text
    for child in ast.iter_child_nodes(node):
        if not (isinstance(node, ast.JoinedStr) and isinstance(child, ast.Constant)):
            yield from _sentences(child)


def _spoken(tree: ast.AST, *, cli: bool) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = _name(node.func)
            positions = (0,) if cli and name == "append" else SPEAKING.get(name, ())
            for position in positions:
                if position < len(node.args):
                    yield from _texts(node.args[position])
        elif isinstance(node, (ast.Yield, ast.Return)) and node.value is not None:
            if (cli and isinstance(node, ast.Yield)) or _is_sentence(node.value):
                yield from _texts(node.value)
        elif isinstance(node, ast.List):
            for one in node.elts:
                if isinstance(one, ast.JoinedStr) and _is_sentence(one):
                    yield from _texts(one)
        elif cli and isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in _LINES:
            for one in node.value.elts if isinstance(node.value, ast.List) else [node.value]:
                yield from _texts(one)


def _name(called: ast.expr) -> str:
    """Return what is called; of ``unwritable(error)("…")``, what gave it."""
    if isinstance(called, ast.Call):
        called = called.func
    return called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")


def _is_sentence(node: ast.expr) -> bool:
    """Whether a function returns words for a user: several, apart."""
    return isinstance(node, (ast.JoinedStr, ast.Constant)) and any(
        len(re.findall(r"[a-z]{2,} [a-z']{2,} [a-z]{2,}", text)) for text in _texts(node)
    )


def _texts(node: ast.expr) -> Iterator[str]:
    """Yield the messages that an expression makes; a value in one becomes a placeholder with its name."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            yield _from_percent(node.value).strip(" ")
    elif isinstance(node, ast.JoinedStr):
        yield _template(node).strip(" ")
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                yield from _texts_inside(part.value)
    elif isinstance(node, ast.IfExp):
        yield from _texts(node.body)
        yield from _texts(node.orelse)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        yield from _texts(node.left)
        yield from _texts(node.right)
    elif isinstance(node, ast.BoolOp):
        for value in node.values:
            yield from _texts(value)


def _texts_inside(node: ast.expr) -> Iterator[str]:
    if isinstance(node, (ast.IfExp, ast.BoolOp, ast.JoinedStr)):
        yield from _texts(node)


def _template(node: ast.JoinedStr) -> str:
    names: dict[str, str] = {}
    parts = []
    for part in node.values:
        if isinstance(part, ast.Constant):
            parts.append(str(part.value))
            continue
        assert isinstance(part, ast.FormattedValue)
        text = ast.unparse(part.value)
        words = re.findall(r"[A-Za-z_]\w*", re.sub(r"'[^']*'", lambda one: one[0].strip("'"), text))
        name = next((word for word in reversed(words) if len(word) > 1), "value").strip("_") or "value"
        while names.setdefault(name, text) != text:
            name += "_"
        parts.append("{" + name + "}")
    return "".join(parts)


def _from_percent(text: str) -> str:
    number = iter(range(1, 99))
    return re.sub(r"%[sd]", lambda _: f"{{value{next(number)}}}", text)


def update(path: Path) -> tuple[int, int]:
    """Write a catalogue anew with the messages of the source; return how many there are, and how many untranslated."""
    catalogue = polib.pofile(str(path))
    known = {entry.msgid: entry.msgstr for entry in catalogue if not entry.obsolete}
    fresh = polib.POFile(wrapwidth=110)
    fresh.metadata = {"Content-Type": "text/plain; charset=UTF-8", "Language": path.stem}
    for message in messages():
        fresh.append(polib.POEntry(msgid=message, msgstr=known.get(message, "")))
    fresh.save(str(path))
    return len(fresh), len(fresh.untranslated_entries())


if __name__ == "__main__":
    for one in sorted(FOLDER.glob("*.po")):
        print(one, *update(one))
