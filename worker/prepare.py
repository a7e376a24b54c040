"""Find, verify and check the model before any work begins: ``python -m worker.prepare``.

Prints one line of JSON for the caller; what goes wrong is one line on standard error and exit code 2. Run by the
producer before it starts workers on this machine, by the containers' start, and by hand to fill a cache that machines
without a network share.
"""

from __future__ import annotations

import argparse
import json
import sys

from backlog.environment import from_environment
from backlog.errors import KNOWN_FAILURE, USAGE, BacklogError, UsageError
from backlog.log import set_up
from backlog.worker_programs import PreparedModel


def main() -> None:
    """Prepare the weights, and check what they compute."""
    parser = argparse.ArgumentParser(prog="python -m worker.prepare", description=__doc__)
    parser.add_argument("--offline", action="store_true", help="don't download; fail where a file is missing")
    parser.add_argument("--steps", action="store_true", help="a JSON line on standard output for each step")
    parser.add_argument(
        "--if-unchecked",
        action="store_true",
        help="load and check the model only where the cache has no note that it was checked; verify it always",
    )
    arguments = parser.parse_args()

    def step(name: str) -> None:
        if arguments.steps:
            print(json.dumps({"step": name}), flush=True)  # noqa: T201

    try:
        settings = from_environment()
        set_up(settings.log)
        from worker.model.engine import load, runtime_of  # after a bad setting has been said
        from worker.model.network import check_scores, was_checked
        from worker.model.weights import locate

        step("weights")
        weights = locate(
            settings.weights,
            settings.weights_sha256,
            settings.cache_folder,
            download=not arguments.offline,
            model=settings.model,
        )
        runtime = runtime_of(settings.engine)
        # PyTorch on a GPU is compared with itself on the CPU whenever it is loaded.
        checked = runtime == "onnxruntime" and was_checked(weights, settings.cache_folder)
        if not (checked and arguments.if_unchecked):
            step("load")
            engine = load(weights, engine=runtime, threads=settings.threads or 1)
            if runtime == "onnxruntime":
                step("check")
                check_scores(weights, engine.scores, settings.cache_folder)
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(USAGE) from None
    except BacklogError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(KNOWN_FAILURE) from None
    answer: PreparedModel = {
        "weights": weights.sha256,
        "meaningful": weights.meaningful,
        "engine": runtime,
    }
    print(json.dumps(answer))  # noqa: T201


if __name__ == "__main__":
    main()
