"""Further uses of learned densities, each against an exact answer; prints JSON.

    python benchmarks/uses.py coupling --seeds 1 2 3 4 5

``coupling``: a quadratic coupling by morphing of three learned densities (`examples/coupling.py`), against the exact densities.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import zfit  # noqa: F401 (before tensorflow, which it silences)
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import coupling as example


def coupling(seed: int) -> dict[str, float]:
    """Distance of the estimate from the exact one in exact errors, and the ratio of the errors."""
    found = example.main(seed=seed)
    (value, error), (exact, exact_error) = found["learned"], found["exact"]
    return {
        "pull": (value - example.TRUTH) / error,
        "distance": (value - exact) / exact_error,
        "error_ratio": error / exact_error,
    }


USES = {"coupling": coupling}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("use", choices=list(USES))
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    arguments = parser.parse_args()
    runs = []
    for seed in arguments.seeds:
        start = time.process_time()
        runs.append({"seed": seed, **USES[arguments.use](seed), "cpu_s": time.process_time() - start})
    numbers = [name for name in runs[0] if name not in ("seed", "cpu_s")]
    summary = {name: {"mean": np.mean(v := [r[name] for r in runs]), "rms": np.std(v)} for name in numbers}
    print(json.dumps({"use": arguments.use, "runs": runs, "summary": summary}, indent=1, default=float))


if __name__ == "__main__":
    main()
