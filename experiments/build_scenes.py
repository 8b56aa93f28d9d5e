"""Builds StampScenes and FashionScenes from public packages, in the formats that `repre eval` reads.

    python -m experiments.build_scenes fashion --out DIR --size 64 --train 20000 --val 2000 --download
    python -m experiments.build_scenes stamps  --out DIR --size 96 --train 20000 --val 2000 --fold 1

Read the result as csv:DIR/labels.csv, pairs:DIR/{split}/images,DIR/{split}/masks, or coco:DIR. The same words give the
same files. `objects.csv` names the first object of every image, over which the evidence is resampled.
"""

import argparse
import csv
import sys
from pathlib import Path

from experiments.compose_scenes import ComposeConfig, Composer, composer
from experiments.debian_packages import download
from experiments.source_images import unpack
from repre.data.tools.write import write_sources
from repre.errors import UserError

DATA = Path(__file__).parent / "data"


def build(
    kind: str, out: Path, counts: dict[str, int], *, packages: Path, config: ComposeConfig, work: Path | None = None
) -> None:
    """Writes a data set into a new or empty folder.

    Args:
        kind: stamps or fashion.
        counts: scenes of every split.
        packages: folder of the .deb files.
        work: folder of the unpacked pictures; by default beside the packages.

    Raises:
        UserError: a package is missing, or the folder is not empty.
    """
    folder = work or packages / "unpacked"
    pictures = unpack(packages, folder)
    sources: dict[str, Composer] = {
        split: composer(kind, split, count, folder=folder, pictures=pictures, packages=packages, config=config)
        for split, count in counts.items()
    }
    write_sources(out, sources)
    write_first(out, {split: source.firsts() for split, source in sources.items()})


def write_first(out: Path, names: dict[str, list[str]]) -> None:
    """Writes `objects.csv`: the name of the first object of every image."""
    with open(out / "objects.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("path", "object"))
        for split, firsts in names.items():
            rows.writerows((f"{split}/images/{i:06}.png", name) for i, name in enumerate(firsts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("stamps", "fashion"))
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument("--packages", type=Path, default=DATA / "packages", help="folder of the .deb files")
    parser.add_argument("--download", action="store_true", help="get missing packages with apt-get")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--train", type=int, default=20000)
    parser.add_argument("--val", type=int, default=2000)
    parser.add_argument("--min-objects", type=int, default=1)
    parser.add_argument("--max-objects", type=int, default=3)
    parser.add_argument("--fold", type=int, default=0, choices=(0, 1, 2))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        config = ComposeConfig(
            size=given.size, min_objects=given.min_objects, max_objects=given.max_objects, fold=given.fold, seed=given.seed
        )  # fmt: skip
        if given.download:
            download(given.packages)
        build(given.kind, given.out, {"train": given.train, "val": given.val}, packages=given.packages, config=config)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(f"written to {given.out}")


if __name__ == "__main__":
    main()
