"""Frozen segmentation in minutes: is this encoder good for my masks, and how many masks do I need?

python examples/segmentation.py                               # a tiny encoder at random, on the embedded scenes
python examples/segmentation.py --encoder runs/photos --data pairs:images/,masks/ --label-fraction 0.1 1
"""

from pathlib import Path

import tyro

from repre.evaluation.fit import FitConfig
from repre.evaluation.options import RuntimeOptions
from repre.evaluation.runner import evaluate
from repre.evaluation.segmentation.segment import SegmentConfig
from repre.models.resolve import resolve_encoder

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
    """Trains a linear head on the frozen maps of an encoder and of the same model at random.

    Args:
        encoder: a run, a checkpoint, a timm name or random:NAME.
        data: pairs:IMAGES,MASKS, voc:DIR, ade20k:DIR or scenes.
        label_fraction: shares of the training masks, for the curve over labels.
        epochs: passes over all training images; every share is trained for as many steps.
        out: folder for the results and eight drawn predictions of each encoder.
        device: cpu, cuda, mps or auto.
        workers: processes that decode images.
        cache: folder for the stored maps, by default the user's cache folder.
    """
    # The encoder runs once over every image and its maps are stored; only the head is trained, so this takes minutes.
    config = SegmentConfig(
        data=data,
        head="linear",
        label_fraction=label_fraction,
        save_predictions=8,
        fit=FitConfig(epochs=epochs),
        runtime=RuntimeOptions(device=device, workers=workers, cache=cache),
    )
    chance = encoder if encoder.startswith("random:") else f"random:{encoder.removeprefix('hub:')}"
    found = {}
    for start in dict.fromkeys((encoder, chance)):
        result = evaluate("segment", resolve_encoder(start), config, out=out)
        found[start] = result["metrics"]
        print(f"\n{start}: {result['seconds']:.0f} s")
        for share in sorted(label_fraction):
            suffix = "" if share == max(label_fraction) else f"@{share:g}"
            print(f"  mIoU {100 * found[start][f'miou{suffix}']:5.1f} % with {share:.0%} of the masks")
        worst = sorted((value, name) for name, value in result["details"]["iou"].items() if value is not None)[:3]
        print(f"  hardest: {', '.join(f'{name} {100 * value:.0f} %' for value, name in worst)}")
        print(f"  drawn in {Path(result['path']).with_suffix('') / 'predictions'}")
    return found


if __name__ == "__main__":
    tyro.cli(main)
