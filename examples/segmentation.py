"""Segmentation on frozen features: is this encoder good for my masks, and how many masks do I need?

python examples/segmentation.py                               # a tiny encoder at random init, on the embedded scenes
python examples/segmentation.py --encoder runs/photos --data pairs:images/,masks/ --label-fraction 0.1 1
"""

from pathlib import Path

import tyro

import repre
from repre.evaluation.fit import FitConfig
from repre.evaluation.metrics import with_fraction

TINY = "random:vit_tiny_patch16_224[patch_size=8,embed_dim=96,depth=3,num_heads=3,image_size=64]"


def main(
    *,
    encoder: str = TINY,
    data: str = "scenes:512:64",
    label_fraction: tuple[float, ...] = (0.1, 1.0),
    epochs: int = 20,
    out: Path = Path("runs/segmentation"),
    device: str = "auto",
    workers: int | None = None,
    cache: Path | None = None,
) -> dict[str, dict[str, float]]:
    """Trains a linear head on the frozen feature maps of an encoder, and of the same model at random init.

    Args:
        encoder: a run, a checkpoint, a timm name or random:NAME.
        data: pairs:IMAGES,MASKS, voc:DIR, ade20k:DIR or scenes.
        label_fraction: fractions of the training masks, for a curve over labels.
        epochs: passes over all training images; every fraction is trained for as many steps.
        out: folder for the results and for eight predictions of each encoder.
        device: cpu, cuda, mps or auto.
        workers: processes that decode images.
        cache: folder for the cached feature maps; by default the user's cache folder.
    """
    # The encoder runs only once over every image, and its feature maps are cached. Only the head is trained, which takes
    # minutes.
    config = repre.SegmentConfig(
        data=data,
        head="linear",
        label_fraction=label_fraction,
        save_predictions=8,
        fit=FitConfig(epochs=epochs),
        runtime=repre.RuntimeOptions(device=device, workers=workers, cache=cache),
    )
    random_init = encoder if encoder.startswith("random:") else f"random:{encoder.removeprefix('hub:')}"
    metrics = {}
    for name in dict.fromkeys((encoder, random_init)):
        result = repre.evaluate("segment", name, config=config, out=out)
        metrics[name] = result.metrics
        print(f"\n{name}: {result.seconds:.0f} s")
        for fraction in sorted(label_fraction):
            miou = result.metrics[with_fraction("miou", fraction, label_fraction)]
            print(f"  mIoU {100 * miou:5.1f} % with {fraction:.0%} of the masks")
        worst = sorted((iou, label) for label, iou in result.details["iou"].items() if iou is not None)[:3]
        print(f"  worst classes: {', '.join(f'{label} {100 * iou:.0f} %' for iou, label in worst)}")
        print(f"  predictions: {result.path.with_suffix('') / 'predictions'}")
    return metrics


if __name__ == "__main__":
    tyro.cli(main)
