"""Comparison with labels: whether the intervals hold what they promise, and what a million rows cost.

``python -m bench.bench_validation [DRAWS] [ROWS]``
"""

from __future__ import annotations

import json
import math
import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backlog.model import LABELS
from bench.figures import Figure
from bench.memory import peak_megabytes
from producer.ledger.ledger import Ledger
from producer.sources.base import Entry, Page, Source
from tests.support.ended_runs import harvest, new_ledger, reported, some_scores

#: Distance of the means of two normal distributions; their AUC is Phi(distance / sqrt 2).
_DISTANCE = 1.0
#: Rows of one transaction while the run is made.
_CHUNK = 4096
_AUC = 0.5 * (1 + math.erf(_DISTANCE / 2))


def main(draws: int = 200, rows: int = 1_000_000) -> list[Figure]:
    """Print both and return them."""
    found = []
    read, joined, megabytes = million(rows)
    print("## Comparison with labels\n")
    print("| patients | images each | intervals of 95 % that hold the AUC |\n|---|---|---|")
    for patients, images in ((100, 1), (300, 1), (100, 4)):
        share = 100 * coverage(patients, images, draws)
        name = f"{patients} patients of {images} image(s)"
        found.append(
            Figure(
                "comparison with labels", name, share, "% of intervals hold the AUC", share / 95, "of 95 %"
            )
        )
        print(f"| {patients} | {images} | {share:.1f} % of {draws} |")
    print(
        f"\n{rows:,} rows: read in {read:.1f} s, joined in {joined:.1f} s of CPU, {megabytes:.0f} MB at most"
    )
    return [
        *found,
        Figure("comparison with labels", f"{rows:,} rows read and joined", read + joined, "s of CPU"),
    ]


def coverage(patients: int, images: int, draws: int) -> float:
    """Return how many intervals hold the true AUC, as a share."""
    from producer.validation import metrics
    from producer.validation.metrics import Ranking, Resampling

    held = 0
    for seed in range(draws):
        scores, truth, clusters = drawn(patients, images, seed)
        resampling = Resampling(clusters, seed)
        resampling.draws = 400
        found = resampling.interval(metrics.auc(scores, truth), Ranking(scores, truth).auc)
        held += found.low <= _AUC <= found.high
    return held / draws


def drawn(
    patients: int, images: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]:
    """Return scores, labels and patients: half of a score's spread is the patient's own."""
    random = np.random.default_rng(seed)
    truth = random.random(patients) < 0.35
    own = random.normal(0, math.sqrt(0.5) if images > 1 else 0.0, patients)
    spread = math.sqrt(1 - (0.5 if images > 1 else 0.0))
    scores = np.repeat(np.where(truth, _DISTANCE, 0.0) + own, images) + random.normal(
        0, spread, patients * images
    )
    return scores, np.repeat(truth, images), np.repeat(np.arange(patients), images)


def million(rows: int) -> tuple[float, float, float]:
    """Return the CPU seconds of reading and of joining so many rows, and the peak in MB of a process that does it."""
    with tempfile.TemporaryDirectory() as folder:
        # Each in a process of its own: neither what makes the run nor this one's libraries are part of the peak.
        for job in (_make_ledger, _read_and_join):
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                found = pool.submit(job, Path(folder), rows).result()
    assert found is not None  # noqa: S101
    return found


def _read_and_join(folder: Path, rows: int) -> tuple[float, float, float]:
    from producer.validation.join import join
    from producer.validation.labels import read_labels

    with closing(Ledger(folder / "ledger.sqlite", write=False)) as ledger:
        before = time.process_time()
        labels = read_labels(folder / "labels.csv")
        between = time.process_time()
        joined = join(ledger, labels, source=_no_source)
        after = time.process_time()
    if len(joined.keys) != rows:
        raise AssertionError("not every row was joined")
    return between - before, after - between, peak_megabytes()


def _no_source() -> Source:
    raise AssertionError("file names are not asked for")


def _make_ledger(folder: Path, rows: int) -> None:
    ledger = new_ledger(folder)
    # Large chunks: a million transactions would take half an hour.
    ledger.add(Page([Entry(number) for number in range(rows)], "", last=True), _CHUNK)
    scores = [some_scores(seed) for seed in range(64)]
    harvest(ledger, lambda item: reported(item, scores[item % 64]))
    ledger.close()
    with (folder / "labels.csv").open("w", encoding="utf-8") as file:
        file.write("sop_instance_uid," + ",".join(LABELS) + "\n")
        file.writelines(
            f"1.2.3.{row},{','.join('01'[(row >> k) & 1] for k in range(18))}\n" for row in range(rows)
        )


if __name__ == "__main__":
    main(*(int(json.loads(one)) for one in sys.argv[1:3]))
