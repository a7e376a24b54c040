"""The rules that keep the house: who may import whom, one door for a library, nothing done by importing."""

from __future__ import annotations

import ast
import dataclasses
import functools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from backlog.settings import Settings, variable
from tests.support.servers import ROOT

PACKAGES = ("backlog", "producer", "worker")


def _in(folder: str) -> set[str]:
    """All modules of a folder."""
    path = ROOT / folder.replace(".", "/")
    return {".".join(file.relative_to(ROOT).with_suffix("").parts) for file in path.rglob("*.py")}


#: A library, and the only modules that may import it.
DOORS = {
    "requests": {
        *("backlog.pacs.http_session", "backlog.pacs.http_errors", "backlog.pacs.http_credentials"),
        *("backlog.pacs.orthanc_rest", "backlog.pacs.dicomweb_rest"),
    },
    "urllib3": {"backlog.pacs.http_session", "backlog.pacs.http_errors"},
    "redis": {"backlog.broker.connection"},
    "isal": {"backlog.inputs.decompression"},
    "inflate64": {"backlog.inputs.decompression"},
    # Writes the demonstration; reads and writes PyTorch's container. Sources are backlog.inputs.zip_archive's.
    "zipfile": {"producer.demo.backlog", "worker.model.torch_file", "worker.model.seeded_weights"},
    "flower": {"worker.flower"},
    "polib": {"producer.translation"},
    "sqlite3": {"producer.ledger.run_database", "producer.sources.only_list"},
    "torch": {"worker.model.engine", "worker.model.torch_engine", "worker.model.torch_model"},
    "celery": {
        *(
            "backlog.broker.celery_app",
            "backlog.broker.sending",
            "worker.main",
            "worker.__main__",
            "worker.flower",
            "worker.health",
        ),
        *("worker.tasks.chunk", "worker.tasks.registry"),
        *(
            "producer.dispatch.context",
            "producer.execution.dispatch_run",
            "producer.workers.worker_inventory",
        ),
        *(
            "producer.monitoring.metrics",
            "producer.monitoring.poller",
            "producer.monitoring.missing_consumers",
        ),
    },
    "kombu": {
        "backlog.broker.celery_app",
        "worker.main",
        "worker.tasks.chunk",
        "producer.dispatch.dispatcher",
    },
    "jinja2": {"producer.templates"},
    "matplotlib": {"producer.page.charts", "producer.page.svg"},
    "rich": _in("producer.cli"),
    "prometheus_client": {"producer.monitoring.metrics", "producer.runner.metrics"},
    "apprise": {"producer.monitoring.notify"},
    "numpy": {*_in("worker"), *_in("producer.demo"), *_in("producer.validation")},
    "scipy": {"producer.validation.metrics"},  # an oracle of the tests besides
    "sklearn": {"producer.validation.metrics"},
    "gdcm": {"worker.pixels.codecs", "producer.demo.compress"},
    "openjpeg": {"worker.pixels.codecs", "producer.demo.compress"},
    "jpeg_ls": {"worker.pixels.codecs", "producer.demo.compress"},
    "imagecodecs": {"worker.pixels.codecs"},
    "torchvision": {"worker.model.torch_model"},
    "torchxrayvision": {
        "worker.model.torch_model",
    },
    "onnx": set(),  # an oracle of the tests
    "onnxruntime": {"worker.model.onnx_engine"},
    "highdicom": set(),  # an oracle of the tests and the bench
    "click": {f"producer.cli.{path.stem}" for path in (ROOT / "producer" / "cli").glob("*.py")},
    "pyarrow": {"producer.results.exports"},
    "PIL": {
        "worker.inspection",
        "worker.gallery_images",
        "worker.derived.capture",
        "worker.ingest.secondary_capture",
    },
    "reportlab": {"worker.derived.pdf"},
    "pickle": {"worker.model.torch_pickle"},
    "pickletools": {"worker.model.torch_pickle"},
    "pylibjpeg_libjpeg": set(),  # GPL
    "libjpeg": set(),  # the same, by its module
}

#: These may read and write DICOM.
PYDICOM = re.compile(
    r"backlog\.dicom\.\w+|worker\.(sr|pixels|derived|ingest)\.\w+|worker\.inspection|producer\.demo\.\w+"
)


@dataclasses.dataclass(frozen=True)
class Imported:
    module: str  #: who
    name: str  #: what
    line: int
    at_import: bool  #: not inside a function, and not for the type checker alone


def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """What a file says; several tests ask."""
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imports() -> tuple[Imported, ...]:
    return tuple(
        one for module, path in modules().items() for one in _walk(module, tree_of(path), at_import=True)
    )


def _walk(module: str, node: ast.AST, *, at_import: bool) -> Iterator[Imported]:
    for child in ast.iter_child_nodes(node):
        now = at_import and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            now = False
        if isinstance(child, ast.Import):
            yield from (Imported(module, alias.name, child.lineno, now) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{module}:{child.lineno}: a relative import"
            yield from (
                Imported(module, f"{child.module}.{alias.name}", child.lineno, now) for alias in child.names
            )
        yield from _walk(module, child, at_import=now)


def test_the_walk_sees_imports() -> None:
    """The other tests say nothing where this one fails."""
    assert len(imports()) > 300
    assert any(
        one.module == "backlog.pacs.connect" and one.name == "backlog.pacs.orthanc.Orthanc"
        for one in imports()
    )


def test_imports_go_one_way() -> None:
    """The producer and the worker know what they agree on, never each other."""
    allowed = {"backlog": {"backlog"}, "producer": {"backlog", "producer"}, "worker": {"backlog", "worker"}}
    wrong = [
        f"{one.module}:{one.line} imports {one.name}"
        for one in imports()
        if (top := one.name.partition(".")[0]) in {*PACKAGES, "tests", "bench"}
        and top not in allowed[one.module.partition(".")[0]]
    ]
    assert not wrong


def test_no_folder_is_imported_in_a_circle() -> None:
    """What a folder needs while it is imported, and all that this needs, does without it."""

    def folder(module: str) -> str:
        return ".".join(module.split(".")[:2])

    needs: dict[str, set[str]] = {}
    known = modules()
    for one in imports():
        name = one.name if one.name in known else one.name.rpartition(".")[0]
        if one.at_import and name in known:
            needs.setdefault(folder(one.module), set()).add(folder(name))
    assert len(needs) > 20

    def reached(first: str) -> set[str]:
        found, waiting = set[str](), [first]
        while waiting:
            new = needs.get(waiting.pop(), set()) - found - {first}
            found |= new
            waiting += new
        return found

    circles = {one: back for one in needs if (back := {two for two in reached(one) if one in reached(two)})}
    assert circles == {}


@pytest.mark.parametrize("library", sorted(DOORS))
def test_a_library_has_one_door(library: str) -> None:
    users = {one.module: one.line for one in imports() if one.name.partition(".")[0] == library}
    assert set(users) <= DOORS[library], users


def test_dicom_is_read_and_written_where_it_belongs() -> None:
    users = {one.module for one in imports() if one.name.partition(".")[0] == "pydicom"}
    assert users
    assert not {module for module in users if not PYDICOM.fullmatch(module)}


def _uses(tree: ast.AST, *names: str) -> list[int]:
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, (ast.Attribute, ast.Name)) and ast.unparse(node) in names
    ]


def test_one_module_reads_the_environment() -> None:
    readers = {
        module
        for module, path in modules().items()
        if _uses(
            tree_of(path),
            "os.environ",
            "os.getenv",
            "os.environb",
            "os.putenv",
            "environ",
            "getenv",
        )
    }
    assert readers == {"backlog.environment"}


_LOGGERS = {
    *("getLogger", "basicConfig", "get_task_logger", "get_logger"),
    *("logging.debug", "logging.info", "logging.warning", "logging.error", "logging.exception"),
    *("logging.critical", "logging.log"),
}


def _asks_for_a_logger(tree: ast.AST) -> bool:
    return any(
        {ast.unparse(node), ast.unparse(node).rpartition(".")[2]} & _LOGGERS
        for node in ast.walk(tree)
        if isinstance(node, (ast.Attribute, ast.Name))
    ) or any(
        isinstance(node, ast.ImportFrom) and node.module in ("logging", "celery.utils.log")
        for node in ast.walk(tree)
    )


def test_one_module_asks_for_loggers() -> None:
    """So every line has a form that can be chosen, and fields from the list of `backlog.log`."""
    askers = {module for module, path in modules().items() if _asks_for_a_logger(tree_of(path))}
    assert askers == {"backlog.log"}


@pytest.mark.parametrize(
    "source",
    [
        "import logging as log\nlog.getLogger()",
        "from logging import getLogger",
        "import logging\nlogging.warning('x')",
        "from celery.utils.log import get_task_logger",
    ],
)
def test_the_look_for_loggers_sees_each_way(source: str) -> None:
    assert _asks_for_a_logger(ast.parse(source))


def test_no_shell_no_pickle_no_eval() -> None:
    for module, path in modules().items():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.keyword):
                assert node.arg != "weights_only", (
                    f"{module}:{node.lineno}: worker.model.torch_file reads weights"
                )
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "os.system", "os.popen", "pickle.loads"), (
                    f"{module}:{node.lineno}"
                )
                assert not any(
                    word.arg == "shell" and ast.unparse(word.value) == "True" for word in node.keywords
                ), f"{module}:{node.lineno}"


#: Words that only this code's authors understood once, and what to write instead (docs/architecture.md, "The words").
PRIVATE_WORDS = {
    "aftercare": "verify, retract",
    "breadcrumb": "current item",
    "companions": "derived objects",
    "etiquette": "concurrency limit",
    "lookout": "poller",
    "forgive": "reset the retry budget",
    "is away": "is unavailable",
    "are away": "are unavailable",
    "the person": "the user, the operator",
    "no word of": "without",
    "somebody who": "a user who",
    "whoever": "the user, the worker, the process that",
    "let go of": "close, release",
    "lets go of": "closes, releases",
    "mend": "fix",
    "mended": "fixed",
    "comes to rest": "ends",
    "manners": "concurrency limit",
    "labours": "is slow",
    "at its door": "counts against it",
    "put aside": "deferred",
    "nobody thought of": "random",
}


def test_no_private_word_comes_back() -> None:
    written = [*modules().values(), *(ROOT / "docs").glob("*.md"), *ROOT.glob("README*.md")]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {word!r}: write {instead!r}"
        for path in written
        if path.name != "decisions.md"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for word, instead in PRIVATE_WORDS.items()
        if re.search(rf"\b{word}\b", line, re.IGNORECASE)
    ]
    assert not found


def test_no_room_is_called_by_what_it_holds_together() -> None:
    for module in modules():
        assert not {"utils", "util", "helpers", "helper", "common", "misc"} & set(module.split(".")), module


def test_nothing_changes_a_job() -> None:
    """It is shared by all who send it or decide by it: mypy refuses what the annotations forbid."""
    tree = tree_of(modules()["backlog.broker.job"])
    (job,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Job"]
    keys = [node for node in job.body if isinstance(node, ast.AnnAssign)]
    assert len(keys) > 10
    assert [ast.unparse(key) for key in keys if not ast.unparse(key.annotation).startswith("ReadOnly[")] == []


def _private(tree: ast.AST) -> Iterator[str]:
    """Yield what a test reaches for that its owner keeps to itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_private(node.attr):
            if not isinstance(node.value, ast.Call) and ast.unparse(node.value) not in _OPEN:
                yield f"{node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
            yield from (f"{node.lineno}: {one.name}" for one in node.names if _is_private(one.name))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".setattr"):
            for one in node.args[:-1]:  # the last is the value
                named = one.value if isinstance(one, ast.Constant) and isinstance(one.value, str) else ""
                if _is_private(named.rpartition(".")[2]):
                    yield f"{node.lineno}: {named}"


#: An object's own, and names that Python and NamedTuple spell so.
_OPEN = ("self", "cls", "os", "sys")
_SPELT_SO = ("_asdict", "_replace", "_fields", "_make")


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in _SPELT_SO


def test_tests_reach_for_nothing_private() -> None:
    """What they need is public, so that what is private may change."""
    for source in (
        "claim._began",
        "from worker.tasks.report import _same",
        "patch.setattr(module, '_LIMIT', 1)",
        "patch.setattr('producer.doctor._LIMIT', 1)",
    ):
        assert list(_private(ast.parse(source))), source
    found = {
        str(path.relative_to(ROOT)): reached
        for path in (ROOT / "tests").rglob("*.py")
        if (reached := list(_private(tree_of(path))))
    }
    assert found == {}


#: A longer module has two subjects.
_MAX_LINES = 300


def test_a_module_has_one_subject() -> None:
    """Three hundred lines hold one (docs/decisions.md)."""
    long = {module for module, path in modules().items() if path.read_text().count("\n") > _MAX_LINES}
    assert long == set()


#: A test's name is the sentence that fails; a longer one is cut off where it is read.
_MAX_TEST_NAME = 60


def test_a_tests_name_is_a_short_sentence() -> None:
    names = [
        (node.name, str(path.relative_to(ROOT)))
        for path in (ROOT / "tests").rglob("*.py")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert len(names) > 1000
    assert [one for one in names if len(one[0]) > _MAX_TEST_NAME] == []
    words = re.compile(rf"\b({'|'.join(PRIVATE_WORDS)})\b")
    assert [one for one in names if words.search(one[0].replace("_", " "))] == []


def test_the_producer_passes_types() -> None:
    """A dict of anything tells a reader nothing, and mypy neither."""
    found = [
        f"{module}:{number}"
        for module, path in modules().items()
        if module.startswith("producer.")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"dict\[str, Any\]|Mapping\[str, Any\]", line)
    ]
    assert found == []


# -- what importing does -------------------------------------------------------------------------------------

_LOOK = """
import importlib, os, socket, sys
class Watched(type(os.environ)):
    def __getitem__(self, key):
        if isinstance(key, str) and key.startswith("CXR_"):
            raise AssertionError("reads " + key)
        return super().__getitem__(key)
    def __iter__(self):
        frame = sys._getframe(1)
        while frame.f_globals.get("__name__") in ("_collections_abc", "collections.abc", "os"):
            frame = frame.f_back
        if frame.f_globals.get("__name__", "").split(".")[0] in ("backlog", "producer", "worker"):
            raise AssertionError("reads the environment")
        return super().__iter__()
os.environ.__class__ = Watched
def closed(*_, **__): raise AssertionError("opens a socket")
real = socket.socket.connect
socket.socket.connect = closed
for name in sys.argv[1:]:
    importlib.import_module(name)
print(" ".join(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def imported_by(*names: str) -> set[str]:
    # Without settings: a library that reads every variable (tqdm does) would be taken for one of ours.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("CXR_")}
    done = subprocess.run(
        [sys.executable, "-c", _LOOK, *names],
        cwd=ROOT,
        env=plain,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_look_sees_who_reads_the_environment() -> None:
    """The next test says nothing where this one fails: the worker's entrance does read it."""
    with pytest.raises(AssertionError, match="reads the environment"):
        imported_by("worker.main")


def test_importing_reads_no_environment_and_opens_no_socket() -> None:
    """But for the worker's entrance, which Celery loads by name, and which says so."""
    light = [
        module.removesuffix(".__init__")
        for module in modules()
        if module not in (*("worker.main", "worker.model.torch_engine", "worker.model.torch_model"),)
    ]
    seen = imported_by(*light)
    assert "torch" not in seen
    assert "torchxrayvision" not in seen


HEAVY = {
    *("torch", "torchvision", "torchxrayvision", "onnxruntime", "highdicom", "pydicom", "numpy"),
    *("celery", "kombu", "redis", "requests", "pyarrow", "sqlite3"),
}


def test_the_command_line_is_light() -> None:
    assert not HEAVY & imported_by("producer.cli.main")


def test_what_both_sides_agree_on_is_light() -> None:
    light = ("broker.messages", "outcomes", "settings", "errors", "pacs.base", "log", "dicom.eligibility")
    seen = imported_by(*(f"backlog.{name}" for name in light))
    assert not HEAVY & seen


def test_the_producer_loads_no_model() -> None:
    seen = imported_by(
        "producer.execution.execute",
        "producer.dispatch.dispatcher",
        "producer.results.exports",
        "producer.cli.progress",
    )
    assert (
        not {"torch", "torchvision", "torchxrayvision", "onnxruntime", "highdicom", "pydicom", "numpy"} & seen
    )


def test_the_upload_and_report_worker_loads_no_model() -> None:
    seen = imported_by("worker.tasks.registry", "worker.tasks.chunk", "worker.sr.build")
    assert not {"torch", "torchvision", "torchxrayvision", "onnxruntime"} & seen


# -- what is written about it --------------------------------------------------------------------------------

_ROW = re.compile(r"^\| `(CXR_[A-Z0-9_]+)` \| ?(?:`([^`]*)`)? ?\| (.+) \|$", re.MULTILINE)


def _table(name: str) -> dict[str, tuple[str, str]]:
    return {row[0]: (row[1], row[2]) for row in _ROW.findall((ROOT / name).read_text(encoding="utf-8"))}


def _default(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.parametrize("readme", ["README.md", "README.pt-BR.md"])
def test_every_setting_stands_in_the_readmes_table(readme: str) -> None:
    table = _table(readme)
    expected = {variable(one): _default(one.default) for one in dataclasses.fields(Settings)}
    assert {name: default for name, (default, _) in table.items()} == expected


@pytest.mark.parametrize(("readme", "language"), [("README.md", "en"), ("README.pt-BR.md", "pt-BR")])
def test_the_readmes_table_is_what_the_command_prints(
    monkeypatch: pytest.MonkeyPatch, readme: str, language: str
) -> None:
    """``CXR_LANGUAGE=… cxr-backlog settings --markdown`` makes it."""
    from click.testing import CliRunner

    from producer.cli.main import main

    monkeypatch.setenv("CXR_LANGUAGE", language)
    printed = CliRunner().invoke(main, ["settings", "--markdown"], catch_exceptions=False).stdout
    rows = printed.strip().splitlines()
    assert len(rows) == len(dataclasses.fields(Settings))
    text = (ROOT / readme).read_text(encoding="utf-8")
    assert [row for row in rows if row not in text.splitlines()] == []


@pytest.mark.parametrize("readme", ["README.md", "README.pt-BR.md"])
def test_every_command_stands_in_the_readmes_table(readme: str) -> None:
    from producer.cli.main import main

    rows = re.findall(r"^\| (`.*?) \|", (ROOT / readme).read_text(encoding="utf-8"), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([a-z]+)", row)}
    assert named >= set(main.commands)


def test_both_readmes_give_the_same_commands_numbers_and_links() -> None:
    """What is in a language is left out: comments of commands, headings, prose."""

    def told(name: str) -> tuple[list[str], list[str], list[str]]:
        text = (ROOT / name).read_text(encoding="utf-8")
        blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
        commands = [line.partition("#")[0].strip() for line in blocks.splitlines()]
        numbers = re.findall(r"^\| \d.*$", text, re.MULTILINE)
        links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("README")]
        return commands, numbers, sorted(set(links))

    assert told("README.md") == told("README.pt-BR.md")


# -- docstrings ----------------------------------------------------------------------------------------------

#: From so many parameters on a public function says of each what it is.
_DOCUMENTED_FROM = 3


def _undocumented(tree: ast.AST) -> list[str]:
    """Return 'function: parameters' of public functions that leave some out of their docstring."""
    found: list[str] = []
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef)) or node.name.startswith("_"):
            continue
        if isinstance(node, ast.ClassDef):
            found += _undocumented(node)
            continue
        if any("command(" in ast.unparse(decorator) for decorator in node.decorator_list):
            continue  # its docstring is its help, and so is each option's: the next test
        given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        names = [one.arg for one in given if one.arg not in ("self", "cls")]
        section = (ast.get_docstring(node) or "").partition("Parameters\n----------\n")[2]
        documented = {
            name.strip() for line in section.splitlines() if line[:1].strip() for name in line.split(",")
        }
        missing = [name for name in names if name not in documented]
        if len(names) >= _DOCUMENTED_FROM and missing:
            found.append(f"{node.name}: {', '.join(missing)}")
    return found


def test_functions_of_three_parameters_document_them_all() -> None:
    assert _undocumented(
        ast.parse(
            'def f(a, b, c):\n    """Do.\n\n    Parameters\n    ----------\n    a, b\n        X.\n    """'
        )
    )
    found = {
        str(file.relative_to(ROOT)): names
        for package in ("backlog", "producer", "worker")
        for file in (ROOT / package).rglob("*.py")
        if (names := _undocumented(tree_of(file)))
    }
    assert found == {}


def test_every_option_of_every_command_has_its_help() -> None:
    import click

    from producer.cli.main import main

    def options(command: click.Command, path: str) -> Iterator[tuple[str, click.Option]]:
        for one in command.params:
            if isinstance(one, click.Option):
                yield f"{path} {one.opts[0]}", one
        if isinstance(command, click.Group):
            for name in command.list_commands(click.Context(command)):
                part = command.get_command(click.Context(command), name)
                assert part is not None
                yield from options(part, f"{path} {name}")

    every = dict(options(main, "cxr-backlog"))
    assert len(every) > 50
    assert [name for name, option in every.items() if not option.help and not option.hidden] == []


def test_no_example_of_a_property_is_timed() -> None:
    assert settings().deadline is None
    assert HealthCheck.too_slow in settings().suppress_health_check
