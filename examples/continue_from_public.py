"""Continue from public weights on your own images, and ask whether it helped over the weights as they were.

python examples/continue_from_public.py --weights hub --data photos/ --labeled labeled/
python examples/continue_from_public.py --weights downloaded.safetensors --name vit_small_patch16_224 ...
python examples/continue_from_public.py                       # needs no network: a short run stands in for the public one

`--weights hub` takes timm's published weights of the model (huggingface.co/timm); a full name chooses among them, such as
`--name vit_small_patch16_224.augreg_in21k` or `--name vit_small_patch14_dinov2.lvd142m`.
"""

from dataclasses import replace
from pathlib import Path

import tyro

import repre
from repre.config import RuntimeConfig
from repre.evaluation.classification.knn import KNNConfig
from repre.evaluation.comparison import compare, markdown
from repre.evaluation.options import RuntimeOptions


def main(
    *,
    weights: str | None = None,
    name: str = "vit_small_patch16_224",
    data: str = "scenes:2048",
    labeled: str = "scenes:1024:64",
    run: Path = Path("runs/continued"),
    recipe: str = "vit-small-moco-v3",
    size: int = 224,
    epochs: int = 10,
    batch_size: int = 128,
    lr: float = 3e-5,
    device: str = "auto",
    workers: int | None = None,
) -> list[str]:
    """Continues a model's training without labels, then compares it with its start and with chance by k-NN.

    Args:
        weights: hub, a .safetensors or .pth file, or a run's folder; without it a toy on the embedded scenes.
        name: timm's name of the model that the weights are of.
        data: images to continue on.
        labeled: labeled images to compare on.
        run: folder of the new run.
        recipe: a recipe of `repre pretrain`; its encoder is replaced.
        size: side of the views and of the compared images in pixels.
        epochs: passes over the images.
        batch_size: images per step.
        lr: peak learning rate per 256 images; weights that are good already want a small one.
        device: cpu, cuda, mps or auto.
        workers: processes that decode images.
    """
    runtime = RuntimeConfig(device=device, workers=workers)
    config = replace(repre.recipe(recipe), data=data, out=str(run), epochs=epochs, batch_size=batch_size)
    config = replace(config, runtime=runtime, optim=replace(config.optim, lr=lr, base_batch_size=256))
    if weights is None:  # the toy: quickstart's encoder, after two epochs
        start, size, config = str(run.with_name("public")), 48, replace(repre.recipe("quickstart"), runtime=runtime)
        repre.pretrain(config, out=start, data=data, epochs=2, batch_size=batch_size)
        config = replace(config, data=data, out=str(run), epochs=epochs, batch_size=batch_size)
        encoder = replace(config.encoder, weights=start)
    else:
        start = f"hub:{name}" if weights == "hub" else weights if Path(weights).is_dir() else f"{name}={weights}"
        encoder = repre.EncoderConfig(name=name, weights=weights)
    repre.pretrain(replace(config, encoder=encoder, views=replace(config.views, size=size)))

    knn = KNNConfig(data=labeled, size=size, runtime=RuntimeOptions(device=device, workers=workers))
    starts = [str(run), start, f"random:{run}"]
    rows = compare(starts, {"knn": knn}, seeds=3, out=run.with_name("comparison"), supervised=start)
    print(f"\n{markdown(rows, seeds=3).replace('over supervised', 'over the start')}")
    return [row.start for row in rows]


if __name__ == "__main__":
    tyro.cli(main)
