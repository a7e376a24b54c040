"""PixelMed's DicomSRValidator over many files in one Java process: ``python -m tests.support.pixelmed FILE ...``.

Its templates are style sheets that take seconds to load; a process for each file loads them each time. Prints a JSON
object with what it says of each file.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

JAR: Final = Path("/usr/share/java/pixelmed.jar")

#: The style sheets of the templates exceed limits that Java 17 puts on XPath.
_LIMITS: Final = ("xpathExprGrpLimit", "xpathExprOpLimit", "xpathTotalOpLimit")


def validated(paths: Sequence[Path]) -> dict[Path, str]:
    """Return what the validator says of each file."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.pixelmed", *map(str, paths)],
        capture_output=True,
        check=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    return {Path(path): said for path, said in json.loads(done.stdout.splitlines()[-1]).items()}


def main() -> None:
    """Validate the files of the command line."""
    import jpype

    options = ["-XX:+UseSerialGC", *(f"-Djdk.xml.{limit}=0" for limit in _LIMITS)]
    jpype.startJVM(*options, classpath=[str(JAR), *map(str, JAR.parent.glob("*.jar"))])
    validator = jpype.JClass("com.pixelmed.validate.DicomSRValidator")()
    print(json.dumps({path: str(validator.validate(path)) for path in sys.argv[1:]}))


if __name__ == "__main__":
    main()
