"""Draws the allocation over arrivals on openb, ours against baselines, as SVG files into docs/.

python bench/packing_plots.py [--variants default,cpu250] [--seed 47]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # it is run by its path, too

from bench.openb_library import LIBRARY
from bench.packing_runs import DATA, VARIANTS, Job, curves

__all__ = ["main"]

DOCS = Path(__file__).resolve().parents[1] / "docs"
POLICIES = {
    LIBRARY: ("tfscale", "#0b6e4f"),
    "fgd": ("FGD", "#c1121f"),
    "firstfit": ("first fit", "#6d597a"),
    "bestfit": ("best fit", "#e09f3e"),
    "random": ("random", "#8d99ae"),
}
_WIDE, _NEAR = (0, 130), (85, 130)


def draw(variant: str, seed: int, folder: Path) -> Path:
    """Draw one variant, from the first arrival and near the end, and return the file."""
    import matplotlib as mpl  # noqa: PLC0415  (an extra, which only plots need)

    mpl.use("svg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the choice of a backend

    mpl.rcParams["svg.hashsalt"] = "tfscale"
    found = curves([Job(variant, policy, seed) for policy in POLICIES])
    figure, panels = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for panel, (first, last) in zip(panels, (_WIDE, _NEAR), strict=True):
        least = 100.0
        for policy, (name, colour) in POLICIES.items():
            points = [pair for pair in zip(*found[Job(variant, policy, seed)], strict=True) if first <= pair[0] <= last]
            points = points[:: max(len(points) // 400, 1)]
            panel.plot([pair[0] for pair in points], [pair[1] for pair in points], label=name, color=colour, linewidth=1.4)
            least = min(least, points[0][1])
        panel.set_xlim(first, last)
        panel.set_ylim(least, 100)
        panel.set_xlabel("asked by the pods that came, % of all GPUs")
        panel.grid(visible=True, linewidth=0.3)
    panels[0].set_ylabel("allocated, % of all GPUs")
    panels[0].legend(frameon=False)
    figure.suptitle(f"{variant}, seed {seed}")
    path = folder / f"packing-{variant}.svg"
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw, say what was written and return 0; 2 where an argument is wrong."""
    parser = argparse.ArgumentParser(description="Draw the allocation over arrivals on openb.")
    parser.add_argument("--variants", default="default,cpu250,gpushare100,gpuspec33", help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=47, help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    variants = options.variants.split(",")
    if not set(variants) <= set(VARIANTS):
        parser.error(f"--variants is {options.variants}; want some of {','.join(VARIANTS)}")
    if not DATA.is_dir():
        print("nothing is drawn: the public data is not beside the repository")
        return 0
    for variant in variants:
        print(draw(variant, options.seed, DOCS).name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
