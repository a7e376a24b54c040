"""Everything that is measured: ``python -m bench [quick]``. Reported as ratios; see docs/performance.md."""

from __future__ import annotations

import sys
from pathlib import Path

from bench import bench_engine, bench_pixels, bench_producer, bench_report, end_to_end


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
    print("\n# End to end", flush=True)
    end_to_end.measure(*((40, 4, 1) if quick else (200, 12, 3)))


if __name__ == "__main__":
    main()
