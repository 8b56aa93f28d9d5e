"""Own folder -> pre-training -> features -> search: which images resemble this one?

python examples/search.py                                     # the embedded scenes: a few minutes on two cores
python examples/search.py --data photos/ --run runs/photos --recipe vit-small-moco-v3 --query photos/cat.jpg
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

import repre
from repre.data.io.sources import open_source
from repre.evaluation.options import RuntimeOptions
from repre.exporters.embeddings import embed

SIDE = 96


def main(
    *,
    data: str = "scenes:2048",
    run: Path = Path("runs/search"),
    recipe: str = "quickstart",
    epochs: int = 8,
    batch_size: int = 128,
    query: str | None = None,
    top: int = 8,
    device: str = "auto",
    workers: int | None = None,
) -> list[str]:
    """Pre-trains on a folder, embeds it, and draws the images that are nearest to one of them.

    Args:
        data: a folder of images, or scenes.
        run: the run's folder; one that is finished is not trained again.
        recipe: a recipe of `repre pretrain`.
        epochs: passes over the images.
        batch_size: images per step.
        query: which image to search for, as features.npz names it; by default the first.
        top: how many images to find.
        device: cpu, cuda, mps or auto.
        workers: processes that decode images.
    """
    config = replace(repre.recipe(recipe), data=data, out=str(run), epochs=epochs, batch_size=batch_size)
    repre.pretrain(replace(config, runtime=replace(config.runtime, device=device, workers=workers)))

    # One embedding per image, in a file; an interrupted call goes on where it stopped. `repre embed` does the same.
    features = run / "features.npz"
    embed(str(run), data=data, out=features, runtime=RuntimeOptions(device=device, workers=workers))
    with np.load(features) as archive:
        names, embeddings = archive["paths"].tolist(), archive["features"]

    # Embeddings share a large common part; without it the cosines tell images apart.
    embeddings = embeddings - embeddings.mean(0)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    wanted = names.index(query) if query else 0
    cosines = embeddings @ embeddings[wanted]
    cosines[wanted] = np.inf  # first in the picture, whatever its rounding
    nearest = np.argsort(-cosines)[: top + 1]

    for place in nearest[1:]:
        print(f"{cosines[place]:.3f}  {names[place]}")
    source = open_source(data)
    where = {source.describe(index): index for index in range(len(source))}
    sheet = Image.new("RGB", (SIDE * len(nearest), SIDE), "white")
    for column, place in enumerate(nearest):
        image = Image.fromarray(source.load(where[names[place]]))
        image.thumbnail((SIDE - 4, SIDE - 4))
        sheet.paste(image, (column * SIDE + 2, 2))
    sheet.save(run / "nearest.png")
    print(f"drawn in {run / 'nearest.png'}: the query, then what resembles it")
    return [names[place] for place in nearest[1:]]


if __name__ == "__main__":
    tyro.cli(main)
