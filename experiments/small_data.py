"""What suits a few hundred images: short trainings on CamVid and on class folders, many at once on one device.

    python -m experiments.small_data --camvid camvid.tar --seconds 200              # run it again to resume
    python -m experiments.small_data --camvid camvid/ --photos photos/ --list       # photos/train and photos/test by class

Each row is one training from random weights, measured by a linear segmentation head on frozen maps (`miou` with all masks,
`miou36` with 36 of them) or, on photos, by k-NN and a linear classifier. The most important rows come first. The file of
results has every row that ended, written after each one, and a table lies beside it; rows in it are not run again.
"""

import argparse
import json
import os
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.machine import machine

from experiments.pool import Ended, run_pool
from experiments.real_images import unpacked
from experiments.small_data_rows import ROWS, TOY_ROWS, Row
from repre.data.io.sources import open_source
from repre.evaluation.classification.knn import KNNConfig
from repre.evaluation.classification.linear import LinearConfig
from repre.evaluation.fit import FitConfig
from repre.evaluation.options import RuntimeOptions
from repre.evaluation.runner import evaluate
from repre.evaluation.segmentation.segment import SegmentConfig
from repre.models.resolve import resolve_encoder
from repre.training.loop import train
from repre.utils.io import write_json

RESULTS = Path(__file__).parent / "results" / "small-data.json"
COLUMNS = ("miou", "miou36", "pixel_accuracy", "knn20", "linear")
"""Columns of the table that are shown in percent."""


@dataclass(frozen=True)
class Job:
    """What a process needs to know for all of its rows."""

    device: str
    workers: int
    data: dict[str, str]
    """Folder of every data set by its name in a row."""
    out: Path
    fit: FitConfig
    masks: int = 36
    """Masks of the few-label metric; 0: without it."""
    linear_steps: int = 1000
    monitor_samples: int = 256


def run_row(row: Row, job: Job) -> dict[str, Any]:
    """Trains and measures a row; returns its metrics and times."""
    started = time.monotonic()
    result: dict[str, Any] = {}
    folder = Path(job.data[row.data])
    out, images = job.out / row.name.replace("/", "-"), str(folder / "train" / ("images" if row.is_dense else ""))
    if row.steps:
        path = train(row.config(images, out, count=_count(images), job_device=job.device, workers=job.workers,
                                monitor_samples=job.monitor_samples))  # fmt: skip
        summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
        last = summary["validations"][-1]
        result |= {name: last.get(name) for name in ("gradient_ratio", "psnr", "rankme", "correspondence")}
        result["ratios"] = [validation.get("gradient_ratio") for validation in summary["validations"]]
        result |= {"epochs": summary["epochs"], "steps": summary["steps"]}
        result["alarms"] = sorted({alarm["monitor"] for alarm in summary["alarms"]})
        result["data_wait"], spec = summary["data_wait"], str(path)
    else:
        spec = row.random_init
    trained = time.monotonic()
    result |= measure(row, spec, folder, job, out)
    result["train_seconds"], result["eval_seconds"] = trained - started, time.monotonic() - trained
    return result


def measure(row: Row, spec: str, folder: Path, job: Job, out: Path) -> dict[str, float]:
    """Measures an encoder on the labels of a row's data."""
    runtime = RuntimeOptions(device=job.device, workers=job.workers, cache=job.out / "features", cache_gib=30)
    resolved = resolve_encoder(spec)
    if row.is_dense:
        pairs, test = (f"pairs:{folder / part / 'images'},{folder / part / 'masks'}" for part in ("train", "test"))
        few = job.masks / _count(str(folder / "train" / "images"))
        fractions = (1.0, few) if 0 < few < 1 else (1.0,)
        segment = SegmentConfig(data=pairs, test=test, label_fraction=fractions, fit=job.fit, runtime=runtime)
        metrics = evaluate("segment", resolved, segment, out=out, reuse=True)["metrics"]
        found = {name: metrics[name] for name in ("miou", "pixel_accuracy")}
        few_masks = [value for name, value in metrics.items() if name.startswith("miou@")]
        return found | ({f"miou{job.masks}": few_masks[0]} if few_masks else {})
    knn = KNNConfig(data=str(folder), runtime=runtime)
    linear = LinearConfig(data=str(folder), steps=job.linear_steps, runtime=runtime)
    return {
        "knn20": evaluate("knn", resolved, knn, out=out, reuse=True)["metrics"]["knn20"],
        "linear": evaluate("linear", resolved, linear, out=out, reuse=True)["metrics"]["accuracy"],
    }


def _count(images: str) -> int:
    return len(open_source(images, labels=False))


def run(rows: list[Row], job: Job, *, processes: int, seconds: float, results: Path) -> None:
    """Runs the rows that are not measured, in their order, several at once, and stops everything after `seconds`."""
    begin, content = time.monotonic(), read_results(results)
    left = [row for row in rows if "error" in content["rows"].get(row.name, {"error": ""})]
    print(f"{len(rows) - len(left)} of {len(rows)} rows are measured", flush=True)

    def keep(ended: Ended[Row]) -> None:
        row, result = ended.item, ended.result if ended.error is None else {"error": ended.error}
        content["rows"][row.name] = {"settings": asdict(row), **result}
        results.parent.mkdir(parents=True, exist_ok=True)
        write_json(results, content)
        results.with_suffix(".md").write_text(table(content["rows"]), encoding="utf-8")
        shown = {name: result[name] for name in (*COLUMNS, "gradient_ratio", "error") if result.get(name)}
        print(f"{time.monotonic() - begin:6.1f} s  {row.name}  {shown}", flush=True)

    os.environ["REPRE_CACHE"] = str(job.out / "decoded")
    content["machine"] = machine(job.device)
    cut_off, waiting = run_pool(
        left, partial(run_row, job=job), processes=processes, seconds=seconds, logs=job.out / "logs", done=keep,
        key=lambda row: row.name,
    )  # fmt: skip
    print(f"{cut_off} rows cut off, {waiting} not started", flush=True)


def read_results(path: Path) -> dict[str, Any]:
    """The results so far."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"rows": {}}


def table(rows: dict[str, Any]) -> str:
    """All measured rows as a Markdown table: metrics in percent, and the ratio of the gradients at the end."""
    names = [name for name in COLUMNS if any(name in row for row in rows.values())]
    lines = [f"| | {' | '.join(names)} | gradient ratio | seconds |", f"|---|{'---|' * (len(names) + 2)}"]
    for label, row in rows.items():
        if "error" not in row:
            cells = [f"{100 * row[name]:.1f}" if name in row else "" for name in names]
            ratio = row.get("gradient_ratio")
            cells += ["" if ratio is None else f"{ratio:.3g}", f"{row['train_seconds']:.0f}"]
            lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camvid", type=Path, required=True, help="folder or tar with train and test images and masks")
    parser.add_argument(
        "--photos", type=Path, help="folder with class folders in train/ and test/; its rows are left out"
    )
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after this time")
    parser.add_argument("--processes", type=int, default=6, help="trainings at once")
    parser.add_argument("--workers", type=int, default=2, help="decoding processes of each training")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="device of all rows")
    parser.add_argument("--masks", type=int, default=36, help="masks of the few-label metric; 0 leaves it out")
    parser.add_argument("--out", type=Path, default=Path("runs/small-data"), help="folder of runs and caches")
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSON file of the results")
    parser.add_argument("--only", nargs="*", default=[], help="only rows whose name contains one of these")
    parser.add_argument("--toy", action="store_true", help="a few tiny rows, to try the script")
    parser.add_argument("--list", action="store_true", help="list the rows and exit")
    args = parser.parse_args()
    rows = [row for row in (TOY_ROWS if args.toy else ROWS) if row.is_dense or args.photos is not None]
    rows = [row for row in rows if not args.only or any(part in row.name for part in args.only)]
    if args.list:
        measured = read_results(args.results)["rows"]
        for row in rows:
            print(f"{row.name:60} {'measured' if row.name in measured else 'to do'}")
        return
    args.out.mkdir(parents=True, exist_ok=True)
    given = {"camvid": args.camvid} | ({} if args.photos is None else {"photos": args.photos})
    data = {name: str(unpacked(path.resolve(), args.out.resolve() / path.stem)) for name, path in given.items()}
    job = Job(args.device, args.workers, data, args.out.resolve(), FitConfig(epochs=20, lr=1e-2), args.masks)
    if args.toy:
        job = replace(job, fit=FitConfig(epochs=1), masks=4, linear_steps=2, monitor_samples=8)
    run(rows, job, processes=args.processes, seconds=args.seconds, results=args.results)


if __name__ == "__main__":
    main()
