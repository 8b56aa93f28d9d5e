"""Writes the pictures of README and site that no experiment draws, and docs/images/sources.json, which tells what they show.

    make pictures                                  # trains the quickstart first, a few minutes
    python docs/make_pictures.py --run runs/mine   # from a finished run of the quickstart's settings

| picture | shows |
|---|---|
| panel.png | images, their reconstructions and their patch features as colors, from the last step of the run |
| report-desktop.png, report-phone.png | the run's report in a headless Chromium |
| speed.png | images per second beside rivals, from benchmarks/results/pipeline-*-cpu.json |

tests/test_pictures.py fails where the settings of the run, or the results behind speed.png, are not today's.
`python -m experiments.tables` draws the pictures of the evidence. Both need `pip install 'repre[dev]'`.
"""

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from repre import pretrain
from repre.config import RunConfig, identity, load_yaml
from repre.recipes import recipe
from repre.reporting import write_report

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from tests.reporting import browser as chromium  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

matplotlib.use("agg")
IMAGES = Path(__file__).with_name("images")
SOURCES = IMAGES / "sources.json"
RESULTS = ROOT / "benchmarks" / "results"
PICTURES = ("panel.png", "report-desktop.png", "report-phone.png", "speed.png")
SPEED = {"simclr": "SimCLR, 2 views", "dino": "DINO, 2 + 6 views"}
"""Method of benchmarks/pipeline.py -> title of its half of speed.png."""
HIDDEN = ("repre, later epochs",)
"""Contenders left out of speed.png: no rival keeps decoded images."""
OURS, RIVAL = "#0b7285", "#adb5bd"
MAX_IMAGES = 8
"""Columns of panel.png."""


def settings(config: RunConfig) -> dict[str, Any]:
    """Returns what defines a run, as JSON gives it back."""
    return json.loads(json.dumps(identity(config)))


def quickstart_settings() -> dict[str, Any]:
    """Returns the settings that the run behind the pictures must have."""
    return settings(recipe("quickstart"))


def speed_results() -> dict[str, Path]:
    """Returns the stored result of every method of speed.png that was measured."""
    paths = {method: RESULTS / f"pipeline-{method}-cpu.json" for method in SPEED}
    return {method: path for method, path in paths.items() if path.is_file()}


def digest(path: Path) -> str:
    """Returns the first 16 digits of a file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


# -------------------------------------------------------------------------------------------------------- pictures


def draw_panel(run: Path) -> Figure:
    """Draws three rows: images, reconstructions from all levels, patch features of the last level as colors."""
    with np.load(run / "snapshots" / "features.npz", allow_pickle=False) as arrays:
        last = max((name for name in arrays.files if name.startswith("pca_level_")), key=lambda name: int(name[10:]))
        rows = {
            "images": arrays["images"],
            "rebuilt from\nthe features": arrays["rebuilt"],
            "patch features\nas colors": arrays[last],
        }
        figure = Figure(figsize=(11.8, 4.5), facecolor="white")
        for number, (title, images) in enumerate(rows.items()):
            for column, image in enumerate(images[:MAX_IMAGES]):
                left, bottom = 0.112 + 0.111 * column, 0.672 - 0.332 * number
                axes = figure.add_axes((left, bottom, 0.108, 0.32))
                axes.imshow(image, interpolation="nearest")
                axes.axis("off")
            figure.text(0.104, 0.832 - 0.332 * number, title, ha="right", va="center", fontsize=11)
    return figure


def draw_speed(results: dict[str, Path]) -> Figure:
    """Draws images per second of every contender, fastest rival first; lines reach from the slowest to the fastest round."""
    figure = Figure(figsize=(9.2, 2.9), layout="constrained")
    panels = figure.subplots(1, len(results), squeeze=False)[0]
    for axes, (method, path) in zip(panels, results.items()):
        runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
        rates = {
            name: [result["images_per_s"] for result in rounds] for name, rounds in runs.items() if name not in HIDDEN
        }
        names = sorted(rates, key=lambda name: statistics.median(rates[name]))
        medians = [statistics.median(rates[name]) for name in names]
        errors = [
            [median - min(rates[name]) for name, median in zip(names, medians)],
            [max(rates[name]) - median for name, median in zip(names, medians)],
        ]
        colors = [OURS if name.startswith("repre") else RIVAL for name in names]
        axes.barh(names, medians, color=colors, xerr=errors, error_kw={"linewidth": 1})
        for place, median in enumerate(medians):
            axes.text(median * 0.02, place, f"{median:.0f}", va="center", color="white", fontweight="bold")
        axes.set_title(SPEED[method], loc="left", fontsize=11)
        axes.set_xlabel("images per second")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def photograph_report(page: Path, folder: Path) -> None:
    """Writes the pictures of a report: its first screen on a desktop, three places of it on a phone."""
    with chromium.started() as browser:
        if browser is None:
            raise SystemExit("no Chromium is installed: python -m tests.reporting.browser downloads one")
        desktop = _open(browser, page, width=1180, height=1850, theme="light")
        desktop.screenshot(path=folder / "report-desktop.png")
        desktop.close()
        with tempfile.TemporaryDirectory() as scratch:
            shots = []
            for name, theme in (("verdict", "light"), ("reconstruction", "dark"), ("similarity", "dark")):
                phone = _open(browser, page, width=390, height=844, theme=theme)
                if name == "similarity":
                    phone.locator("#similarity .map").first.click(position={"x": 60, "y": 70})
                for _ in range(2 if name != "verdict" else 0):  # charts that come into view move what is below them
                    phone.evaluate(f"document.getElementById('{name}').scrollIntoView({{behavior: 'instant'}})")
                    phone.wait_for_timeout(1000)
                phone.screenshot(path=Path(scratch) / f"{name}.png")
                shots.append(np.asarray(Image.open(Path(scratch) / f"{name}.png").convert("RGB")))
                phone.close()
        gap = np.full((shots[0].shape[0], 24, 3), 255, dtype=np.uint8)
        joined = np.concatenate([shots[0], gap, shots[1], gap, shots[2]], axis=1)
        Image.fromarray(joined).save(folder / "report-phone.png", optimize=True)


def _open(browser: "Browser", path: Path, *, width: int, height: int, theme: Any) -> "Page":
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=theme)
    page.goto(path.resolve().as_uri())
    page.wait_for_timeout(1500)  # charts are drawn when they come into view
    return page


def last_validation(run: Path) -> dict[str, float]:
    """Returns the metrics of the run's last validation, for captions."""
    return json.loads((run / "summary.json").read_text(encoding="utf-8"))["validations"][-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="finished run of the quickstart; without it one is trained")
    args = parser.parse_args()
    run = args.run or ROOT / "runs" / "pictures" / "quickstart"
    if args.run is None:
        pretrain("quickstart", out=str(run))
    found = settings(load_yaml(run / "config.yaml"))
    if found != quickstart_settings():
        raise SystemExit(f"{run} does not have the quickstart's settings of today: leave --run out to train it")
    results = speed_results()
    draw_panel(run).savefig(IMAGES / "panel.png", dpi=100, metadata={"Software": ""})
    photograph_report(write_report(run), IMAGES)
    draw_speed(results).savefig(IMAGES / "speed.png", dpi=120, metadata={"Software": ""})
    environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    sources = {
        "quickstart": found,
        "last validation": last_validation(run),
        "versions": {name: environment[name] for name in ("repre", "torch", "timm")},
        "speed": {method: digest(path) for method, path in results.items()},
    }
    SOURCES.write_text(json.dumps(sources, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"wrote {', '.join(PICTURES)} and {SOURCES.name} in {IMAGES.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
