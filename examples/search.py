"""Image search: pre-train on a folder, compute features, find the images that resemble one of them.

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

THUMBNAIL = 96


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
    """Pre-trains on a folder, computes a feature vector per image, and draws the nearest neighbors of one image.

    Args:
        data: a folder of images, or scenes.
        run: the run's folder; a finished run is not trained again.
        recipe: a recipe of `repre pretrain`.
        epochs: passes over the images.
        batch_size: images per step.
        query: the image to search for, as features.npz names it; by default the first.
        top: number of images to find.
        device: cpu, cuda, mps or auto.
        workers: processes that decode images.
    """
    config = replace(repre.recipe(recipe), data=data, out=str(run), epochs=epochs, batch_size=batch_size)
    repre.pretrain(replace(config, runtime=replace(config.runtime, device=device, workers=workers)))

    # One feature vector per image, in a file. Run it again to resume after an interruption. `repre embed` does the same.
    features = repre.embed(run, data=data, out=run / "features.npz", runtime={"device": device, "workers": workers})
    with np.load(features.path) as archive:
        names, embeddings = archive["paths"].tolist(), archive["features"]
    if query is not None and query not in names:
        raise SystemExit(f"--query {query} is not in {features.path}; it names images as {names[0]}")

    # All embeddings share a large common part. Without it, cosine similarity separates the images better.
    embeddings = embeddings - embeddings.mean(0)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    query_index = names.index(query) if query else 0
    similarity = embeddings @ embeddings[query_index]
    similarity[query_index] = np.inf  # the query comes first, whatever the rounding
    nearest = np.argsort(-similarity)[: top + 1]

    for index in nearest[1:]:
        print(f"{similarity[index]:.3f}  {names[index]}")
    source = open_source(data)
    source_index = {source.describe(index): index for index in range(len(source))}
    sheet = Image.new("RGB", (THUMBNAIL * len(nearest), THUMBNAIL), "white")
    for column, index in enumerate(nearest):
        image = Image.fromarray(source.load(source_index[names[index]]))
        image.thumbnail((THUMBNAIL - 4, THUMBNAIL - 4))
        sheet.paste(image, (column * THUMBNAIL + 2, 2))
    sheet.save(run / "nearest.png")
    print(f"{run / 'nearest.png'} shows the query, then its nearest neighbors")
    return [names[index] for index in nearest[1:]]


if __name__ == "__main__":
    tyro.cli(main)
