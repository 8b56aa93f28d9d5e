"""Writes folders of small runs with known metrics, without training."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

HOSTILE = '<img src=x onerror="window.hurt=1">.png'
CLOSING = "</script><script>window.hurt=1</script>"
STEPS, VALIDATION_STEPS, PANEL_IMAGES, SIDE, GRID = 200, 50, 4, 32, 4


def make_run(path: Path, **changes: Any) -> Path:
    """Writes a finished run that learned, with every kind of file; `changes` are arguments of `metrics`."""
    path.mkdir(parents=True)
    rows, validations = metrics(**changes)
    write_lines(path / "metrics.jsonl", rows)
    summary = {"steps": STEPS, "epochs": 4, "images": STEPS * 16, "seconds": 400.0, "images_per_s": 8.0,
               "data_wait": 0.05, "final": rows[-1], "best": validations[-1], "validations": validations, "unreadable": 1,
               "costs": {},
               "knn": {"before": validations[0]["knn"], "after": validations[-1]["knn"], "raw pixels": 0.25}}  # fmt: skip
    (path / "summary.json").write_text(json.dumps(summary))
    config = {"data": "photos/birds", "epochs": 4, "seed": changes.get("seed", 0),
              "encoder": {"name": "vit_tiny_patch16_224"},
              "framework": {"name": "moco-v3"}, "reconstruction": {"weight": 1.0}, "optim": {"lr": 1e-3}}  # fmt: skip
    (path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (path / "environment.json").write_text(json.dumps({"python": "3.11", "repre": "0.1.0", "devices": []}))
    (path / "unreadable.txt").write_text(f"{HOSTILE}\tnot an image {CLOSING}\n")
    add_panels(path)
    add_snapshots(path)
    return path


def metrics(
    *, knn: tuple[float, float] = (0.2, 0.6), spread: float = 0.7, falls: bool = True, seed: int = 0
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Gives training metrics and validations of a run.

    Args:
        knn: before and after.
        spread: the last embedding_std.
        falls: whether the losses fall.
    """
    rng = np.random.default_rng(seed)
    rows, validations = [], []
    for step in range(10, STEPS + 1, 10):
        fall = 0.5 * np.exp(-step / 40) if falls else 0.5
        contrastive, pixel = 3 + fall + 0.001 * rng.random(), 0.2 + fall
        row = {"step": step, "epoch": step / 50, "loss": contrastive + pixel, "contrastive": contrastive, "pixel": pixel,
               "accuracy": step / 400, "grad_norm": 2.0, "lr": 1e-3 * (1 - step / 201), "images_per_s": 8.0,
               "data_wait": 0.05}  # fmt: skip
        rows.append({name: float(value) for name, value in row.items()})
    for step in range(0, STEPS + 1, VALIDATION_STEPS):
        share = step / STEPS
        validations.append({"step": step, "rankme": 10 + 5 * share, "embedding_std": 0.8 + (spread - 0.8) * share,
                            "knn": knn[0] + (knn[1] - knn[0]) * share, "psnr": 12 + 8 * share, "psnr_flat": 13.0,
                            "correspondence": 0.1 + 0.3 * share, "correspondence_chance": 1 / 16})  # fmt: skip
    return rows, validations


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def add_alarm(path: Path, **changes: Any) -> None:
    alarm = {"step": 100, "monitor": "rankme", "value": 1.2, "limit": 2.0, "cause": "all images look alike",
             "fix": "lower optim.lr"}  # fmt: skip
    with open(path / "alarms.jsonl", "a") as file:
        file.write(json.dumps(alarm | changes) + "\n")


def draw_images(count: int, side: int = SIDE) -> np.ndarray:
    """Gives images of a bright disc on a tinted background, uint8 [N, S, S, 3]."""
    y, x = np.mgrid[:side, :side] / side
    made = []
    for i in range(count):
        ground = np.stack([0.2 + 0.1 * i / count + 0 * x, 0.3 + 0.3 * y, 0.5 - 0.2 * x], -1)
        disc = ((x - 0.3 - 0.03 * i) ** 2 + (y - 0.4) ** 2 < 0.05)[..., None]
        made.append(np.where(disc, [0.95, 0.8, 0.3], ground))
    return np.round(255 * np.array(made)).astype(np.uint8)


def add_panels(path: Path) -> None:
    """Writes panels of four images whose reconstructions improve."""
    (path / "panel").mkdir()
    images = draw_images(PANEL_IMAGES)
    for step in range(0, STEPS + 1, VALIDATION_STEPS):
        share = step / STEPS
        rebuilt = np.round(share * images + (1 - share) * 128).astype(np.uint8)
        frame = ((0, 0), (2, 2), (2, 2), (0, 0))
        rows = [np.concatenate(list(np.pad(r, frame, constant_values=255)), axis=1) for r in (images, rebuilt)]
        Image.fromarray(np.concatenate(rows)).save(path / "panel" / f"step-{step:07d}.png")


def add_snapshots(path: Path, *, count: int = 12, side: int = SIDE, grid: int = GRID, noise: bool = False) -> None:
    """Writes snapshots of `count` images whose patch features point to the disc or away from it."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, side, side, 3)).astype(np.uint8) if noise else draw_images(count, side)
    cell = side // grid
    means = images.reshape(count, grid, cell, grid, cell, 3).mean((2, 4)) - images.mean((1, 2), keepdims=True)
    patches = np.concatenate([means, rng.normal(size=(count, grid, grid, 5))], -1)
    patches = np.round(patches / np.linalg.norm(patches, axis=-1, keepdims=True) * 127).astype(np.int8)
    colors = np.clip(means + 128, 0, 255).astype(np.uint8)
    near = (np.arange(count)[:, None] + 1 + np.arange(6)) % count
    small = np.repeat(np.repeat(images, 64 // side + 1, 1), 64 // side + 1, 2)[:, :64, :64]
    (path / "snapshots").mkdir(exist_ok=True)
    np.savez_compressed(
        path / "snapshots" / "features.npz",
        images=images, rebuilt=images // 2 + 64, rebuilt_level_0=images // 4 + 90, rebuilt_level_2=images // 3 + 80,
        pca_level_0=colors, pca_level_1=255 - colors, patches=patches, neighbors=near.astype(np.int32),
        neighbor_cosines=np.linspace(0.9, 0.4, 6, dtype=np.float32)[None].repeat(count, 0), neighbor_images=small[near],
    )  # fmt: skip


def add_evaluation(
    path: Path,
    *,
    start: str = "runs/a",
    seed: int = 0,
    value: float = 0.5,
    weights: str | None = None,
    images: int | None = None,
    **changes: Any,
) -> None:
    """Writes a result of k-NN; `changes` are other entries of it."""
    folder = path / "evaluations"
    folder.mkdir(parents=True, exist_ok=True)
    content = {"format": 1, "evaluation": "knn", "start": start, "seed": seed, "main": "knn20", "higher_is_better": True,
               "metrics": {"knn20": value, "knn10": value - 0.01}, "details": {"test_images": images} if images else {},
               "seconds": 3.0, "config": {"data": "birds", "seed": seed}}  # fmt: skip
    if weights is not None:
        content["encoder"] = {"weights": weights}
    stem = f"{changes.get('evaluation', 'knn')}-{seed}" + ("" if weights is None else f"-{weights[:8]}")
    (folder / f"{stem}.json").write_text(json.dumps(content | changes))


def add_comparison(
    folder: Path, *, start: str, mean: float = 0.1, half: float | None = 0.02, verdict: str = "better"
) -> None:
    """Writes a compare.json of one metric with a gain over random init."""
    folder.mkdir(parents=True, exist_ok=True)
    over = {"mean": mean, "half": half, "verdict": verdict}
    row = {"evaluation": "knn", "metric": "knn20", "values": [0.5, 0.52]}
    rows = [
        row | {"start": start, "mean": 0.51, "sd": 0.014, "over_random": over, "over_supervised": None},
        row | {"start": "random:vit", "mean": 0.41, "sd": 0.01, "over_random": None, "over_supervised": None},
    ]
    results = [{"path": f"{start}/evaluations/knn-0.json", "start": start}]
    (folder / "compare.json").write_text(json.dumps({"format": 1, "seeds": 2, "rows": rows, "results": results}))
