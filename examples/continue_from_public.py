"""Continue pre-training from public weights on your own images, and check whether that improved them.

python examples/continue_from_public.py --weights hub --data photos/ --labeled labeled/
python examples/continue_from_public.py --weights downloaded.safetensors --name vit_small_patch16_224 ...
python examples/continue_from_public.py                       # without a network: a short run replaces the public weights

`--weights hub` downloads timm's published weights of the model (huggingface.co/timm). A full name selects one of several,
such as `--name vit_small_patch16_224.augreg_in21k` or `--name vit_small_patch14_dinov2.lvd142m`.
"""

from dataclasses import replace
from pathlib import Path

import tyro

import repre
from repre.config import RuntimeConfig


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
    """Continues the pre-training of a model, then compares it by k-NN with its initial weights and with random init.

    Args:
        weights: hub, a .safetensors or .pth file, or a run's folder; by default a toy on the embedded scenes.
        name: timm's name of the model that the weights belong to.
        data: images to continue on.
        labeled: labeled images to compare on.
        run: folder of the new run.
        recipe: a recipe of `repre pretrain`; its encoder is replaced.
        size: side of the views and of the compared images in pixels.
        epochs: passes over the images.
        batch_size: images per step.
        lr: peak learning rate per 256 images; weights that are good already need a small one.
        device: cpu, cuda, mps or auto.
        workers: processes that decode images.
    """
    runtime = RuntimeConfig(device=device, workers=workers)
    config = replace(repre.recipe(recipe), runtime=runtime)
    config = replace(config, optim=replace(config.optim, lr=lr, base_batch_size=256))
    if weights is None:  # the toy: quickstart's encoder after two epochs
        initial, size, config = str(run.with_name("public")), 48, replace(repre.recipe("quickstart"), runtime=runtime)
        repre.pretrain(config, out=initial, data=data, epochs=2, batch_size=batch_size)
        encoder = replace(config.encoder, weights=initial)
    else:
        file_or_run = weights if Path(weights).is_dir() else f"{name}={weights}"
        initial = f"hub:{name}" if weights == "hub" else file_or_run
        encoder = repre.EncoderConfig(name=name, weights=weights)
    config = replace(config, encoder=encoder, views=replace(config.views, size=size))
    repre.pretrain(config, data=data, out=run, epochs=epochs, batch_size=batch_size)

    knn = repre.KNNConfig(data=labeled, size=size, runtime=repre.RuntimeOptions(device=device, workers=workers))
    comparison = repre.compare(
        [run, initial, f"random:{run}"], {"knn": knn}, out=run.with_name("comparison"), supervised=initial
    )
    print(f"\n{comparison.to_markdown().replace('over supervised', 'over the initial weights')}")
    return [row.encoder for row in comparison.rows]


if __name__ == "__main__":
    tyro.cli(main)
