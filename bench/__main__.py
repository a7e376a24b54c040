"""Everything that is measured, in one table beside the committed figures: ``python -m bench [--quick] [--write]``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench import (
    bench_engine,
    bench_pixels,
    bench_producer,
    bench_report,
    bench_scale,
    bench_stages,
    bench_start,
    bench_validation,
    bench_views,
    bench_workers,
    compressed,
    end_to_end,
    figures,
)

_PAGE: Final = Path(__file__).parents[1] / "docs" / "performance.md"


def parts(*, quick: bool) -> dict[str, Callable[[], list[figures.Figure]]]:
    """Return what is measured, by its heading, in order: the parts, then the whole.

    Parameters
    ----------
    quick
        So few images and rounds that only ratios far from 1 mean anything.
    """
    cache = Path.home() / ".cache" / "cxr-backlog"
    return {
        "The report": bench_report.main,
        "Pixels": bench_pixels.main,
        "The engine": lambda: bench_engine.main(cache, 2 if quick else 3),
        "The producer": bench_producer.main,
        "Start and memory of an inference worker": lambda: bench_start.main(1 if quick else 5),
        "One image by stage": lambda: bench_stages.main(8 if quick else 24),
        "Simulated workers": bench_scale.main,
        "What people see": lambda: bench_views.main(10 if quick else 100),
        "Comparison with labels": lambda: bench_validation.main(50, 100_000 if quick else 300_000),
        "One worker and two": lambda: bench_workers.main(*((40, 1) if quick else (60, 1))),
        "Compressed images": lambda: compressed.measure(*((8, 1) if quick else (32, 1))),
        "End to end": lambda: end_to_end.measure(*((40, 4, 1) if quick else (150, 6, 2))),
    }


def main() -> None:
    """Measure, print the table, and write it where that is asked for."""
    arguments = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="few images and rounds")
    arguments.add_argument(
        "--write", action="store_true", help=f"keep the figures, and put the table into {_PAGE.name}"
    )
    given = arguments.parse_args()
    found: list[figures.Figure] = []
    for heading, measure in parts(quick=given.quick).items():
        print(f"\n# {heading}", flush=True)
        started = time.monotonic()
        found += measure()
        print(f"took {time.monotonic() - started:.0f} s", flush=True)
    lines = list(figures.table(found, figures.read()))
    print("\n# All of it", *lines, sep="\n")
    if given.write:
        figures.write(found)
        figures.put_into(_PAGE, lines)


if __name__ == "__main__":
    main()
