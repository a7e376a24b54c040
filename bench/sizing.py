"""What a number of images a day needs: ``python -m bench.sizing 100000 1000000``.

Arithmetic on measured costs, no measurement. Each cost is an option, with what was measured as its default; the
commands that measure them stand beside them. ``docs/scaling.md`` shows the table and says what it leaves out.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

DAYS = (10_000, 100_000, 500_000, 1_000_000, 2_000_000, 5_000_000)

_HEAD = (
    "images a day",
    "images/s",
    "inference workers (1 core each)",
    "upload processes",
    "report processes",
    "Orthanc cores",
    "network, Gbit/s",
    "images, TB/day",
    "reports, GB/day",
    "runs' folders, GB/day",
    "Redis, MB",
)


def _cost(default: float, text: str) -> float:
    made: float = field(default=default, metadata={"help": text})
    return made


@dataclass(frozen=True)
class Costs:
    """What one image costs: CPU milliseconds of one core, and bytes."""

    inflate_ms: float = _cost(22.0, "upload: one zip member inflated (bench.bench_stages)")
    store_client_ms: float = _cost(5.0, "upload: sending it (bench.bench_stages)")
    store_ms: float = _cost(23.0, "Orthanc: storing it, synced, no MD5 (bench.bench_stages)")
    fetch_ms: float = _cost(8.0, "Orthanc: handing it out; 0 with its storage shared (bench.end_to_end)")
    fetch_client_ms: float = _cost(4.0, "inference: receiving it (bench.end_to_end)")
    pixels_ms: float = _cost(6.5, "inference: decoding, windowing, resizing (bench.bench_pixels)")
    forward_ms: float = _cost(53.0, "inference: the model, a core and a thread (bench.bench_engine)")
    report_ms: float = _cost(5.0, "report: building and checking it (bench.bench_report)")
    store_report_ms: float = _cost(11.0, "Orthanc: storing the report (bench.bench_stages)")
    image_megabytes: float = _cost(10.0, "one image in Orthanc, MB")
    report_kilobytes: float = _cost(50.0, "one report, kB (bench.bench_report)")
    run_kilobytes: float = _cost(
        1.7, "one image in a run's folder, kB: ledger, audit, scores (bench.bench_producer)"
    )
    message_bytes: float = _cost(600.0, "one image in flight in Redis (tests.chaos.million)")


@dataclass(frozen=True)
class Need:
    """What a rate of images needs. Cores are those that are busy, divided by the share that may be."""

    rate: float  #: images per second while work is done
    inference_workers: int
    upload_processes: int
    report_processes: int
    orthanc_cores: float
    gigabits: float  #: into Orthanc and out of it, per second
    terabytes: float  #: of images, per day
    report_gigabytes: float  #: per day
    run_gigabytes: float  #: of ledger, audit and scores, per day
    redis_megabytes: float  #: at the most


def need(images: int, costs: Costs, *, hours: float, load: float, in_flight: int) -> Need:
    """Return what some images a day need.

    Parameters
    ----------
    images
        Images a day.
    costs
        What one image costs.
    hours
        Hours of the day in which work is done.
    load
        Share of a core that may be busy, above 0 and at most 1; the rest is for peaks and for what else runs.
    in_flight
        Most images in flight at a time.

    Raises
    ------
    ValueError
        An argument is outside of its range.
    """
    if images < 1 or not 0 < hours <= 24 or not 0 < load <= 1:
        raise ValueError("images from 1, hours above 0 and at most 24, load above 0 and at most 1")
    rate = images / (hours * 3600)

    def cores(*milliseconds: float) -> float:
        return rate * sum(milliseconds) / 1000 / load

    inference = cores(costs.fetch_client_ms, costs.pixels_ms, costs.forward_ms)
    fetched = costs.image_megabytes if costs.fetch_ms else 0.0  # from shared storage it is another network's
    moved = costs.image_megabytes + fetched + costs.report_kilobytes / 1000
    return Need(
        rate=rate,
        inference_workers=math.ceil(inference),
        upload_processes=math.ceil(cores(costs.inflate_ms, costs.store_client_ms)),
        report_processes=math.ceil(cores(costs.report_ms)),
        orthanc_cores=cores(costs.store_ms, costs.fetch_ms, costs.store_report_ms),
        gigabits=rate * moved * 8 / 1000,
        terabytes=images * costs.image_megabytes / 1e6,
        report_gigabytes=images * costs.report_kilobytes / 1e6,
        run_gigabytes=images * costs.run_kilobytes / 1e6,
        redis_megabytes=in_flight * costs.message_bytes / 1e6,
    )


def table(days: Sequence[int], costs: Costs, *, hours: float, load: float, in_flight: int) -> str:
    """Return the needs of several numbers of images a day as a Markdown table."""
    lines = ["| " + " | ".join(_HEAD) + " |", "|" + "---:|" * len(_HEAD)]
    for images in days:
        one = need(images, costs, hours=hours, load=load, in_flight=in_flight)
        cells = (
            f"{images:,}",
            f"{one.rate:.1f}",
            f"{one.inference_workers}",
            f"{one.upload_processes}",
            f"{one.report_processes}",
            f"{one.orthanc_cores:.1f}",
            f"{one.gigabits:.2f}",
            f"{one.terabytes:.1f}",
            f"{one.report_gigabytes:.1f}",
            f"{one.run_gigabytes:.2f}",
            f"{one.redis_megabytes:.0f}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.sizing", description="What images a day need.")
    parser.add_argument("images", nargs="*", type=int, default=DAYS, help="images a day")
    parser.add_argument(
        "--hours", type=float, default=24.0, help="hours of work a day (default: %(default)g)"
    )
    parser.add_argument(
        "--load", type=float, default=0.7, help="share of a core that may be busy (default: %(default)g)"
    )
    parser.add_argument(
        "--in-flight", type=int, default=1024 * 32, help="most images in flight (default: %(default)d)"
    )
    parser.add_argument(
        "--shared-storage", action="store_true", help="inference reads Orthanc's files itself"
    )
    for one in fields(Costs):
        option = "--" + one.name.replace("_", "-")
        text = f"{one.metadata['help']} (default: %(default)g)"
        parser.add_argument(option, type=float, default=one.default, help=text)
    given = parser.parse_args(words)
    costs = Costs(**{one.name: getattr(given, one.name) for one in fields(Costs)})
    if given.shared_storage:
        costs = replace(costs, fetch_ms=0.0)
    try:
        print(table(given.images, costs, hours=given.hours, load=given.load, in_flight=given.in_flight))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
