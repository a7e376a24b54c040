"""Everything that is measured: ``python -m bench [quick]``. Reported as ratios; see docs/performance.md."""

from __future__ import annotations

import sys
from pathlib import Path

from bench import (
    bench_engine,
    bench_pixels,
    bench_producer,
    bench_report,
    bench_scale,
    bench_stages,
    bench_start,
    bench_validation,
    bench_workers,
    end_to_end,
)


def main() -> None:
    """Run the parts, then the whole."""
    quick = "quick" in sys.argv[1:]
    print("# The report", flush=True)
    bench_report.main()
    print("\n# Pixels", flush=True)
    bench_pixels.main()
    print("\n# The engine", flush=True)
    bench_engine.main(Path.home() / ".cache" / "cxr-backlog", 2 if quick else 5)
    print("\n# The producer", flush=True)
    bench_producer.main()
    print("\n# Start and memory of an inference worker", flush=True)
    bench_start.main(1 if quick else 5)
    print("\n# One image by stage", flush=True)
    bench_stages.main(8 if quick else 40)
    print("\n# Simulated workers", flush=True)
    bench_scale.main()
    print("\n# Comparison with labels", flush=True)
    bench_validation.main(*((50, 100_000) if quick else (200, 1_000_000)))
    print("\n# One worker and two", flush=True)
    bench_workers.main(*((40, 1) if quick else (200, 2)))
    print("\n# End to end", flush=True)
    end_to_end.measure(*((40, 4, 1) if quick else (200, 12, 3)))


if __name__ == "__main__":
    main()
