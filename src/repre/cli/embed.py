"""`repre embed`: write the features of many images to a file."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from repre import api
from repre.cli.parsing import parse
from repre.data.io.file_choice import FileChoice
from repre.evaluation.options import DenseFeatures, RuntimeOptions
from repre.utils.image_size import Size
from repre.utils.printable_text import say

DESCRIPTION = """Write the features of many images to a file. Run the same command again to resume.

Example:
  repre embed --encoder runs/photos --data photos/ --out features.npz
  repre embed --encoder runs/photos --data photos/ --out runs/photos/features.npz --map auto"""


@dataclass(frozen=True, kw_only=True)
class EmbedOptions:
    """Options of `repre embed`."""

    encoder: Annotated[str, tyro.conf.arg(aliases=["--run"])]
    """A run, a checkpoint, a weights file, a timm name or random:NAME."""
    data: str | tuple[str, ...]
    """Images, as for pretrain."""
    choice: Annotated[FileChoice, tyro.conf.arg(name="")] = field(default_factory=FileChoice)
    """Which files are used."""
    out: Path = Path("features.npz")
    """A .npz or .parquet file."""
    kind: Literal["pooled", "patch", "pyramid"] = "pooled"
    """The pooled embedding, the last feature map, or the feature maps of all levels."""
    features: DenseFeatures = "normed"
    """Maps after the encoder's final norm, or raw from its blocks."""
    size: Size | None = None
    """Side of the images in pixels, or their height and width; None uses the encoder's own."""
    half: bool = False
    """Store float16 instead of float32."""
    value_range: tuple[float, float] | None = None
    """Pixel values that map to 0 and 1; None uses those of the encoder's training, or of the file type."""
    mean: tuple[float, ...] | None = None
    """Mean of every channel in [0, 1], instead of what the weights expect. Give `std`, too."""
    std: tuple[float, ...] | None = None
    """Standard deviation of every channel, instead of what the weights expect."""
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    """Device, workers and batch size."""
    map: Literal["auto", "umap", "pca"] | None = None
    """Also write a map of the images, OUT.map.csv and OUT.map.html: by UMAP, by PCA, or by UMAP if it is installed."""
    map_clusters: int = 20
    """Number of clusters of the map."""
    map_duplicates: float = 0.98
    """Cosine of centered features from which two images are near-duplicates."""
    map_thumbnails: int = 1000
    """Largest number of thumbnails on the map's page."""
    seed: int = 0
    """Random seed of the map."""


def main(arguments: Sequence[str]) -> int:
    options = parse(EmbedOptions, arguments, command="embed", description=DESCRIPTION)
    embeddings = api.embed(**vars(options))
    say(f"{embeddings.count} images embedded; written to {embeddings.path}")
    if embeddings.unreadable is not None:
        say(f"some files could not be read; see {embeddings.unreadable}")
    return 0
