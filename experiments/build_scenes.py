"""Builds StampScenes and FashionScenes from public packages, in formats that `repre eval` reads.

    python -m experiments.build_scenes fashion --out DIR --size 64 --train 20000 --val 2000 --download
    python -m experiments.build_scenes stamps  --out DIR --size 96 --train 20000 --val 2000 --fold 1

Pass the result to --data as csv:DIR/labels.csv, pairs:DIR/{split}/images,DIR/{split}/masks, or coco:DIR. The same
arguments give the same files. `objects.csv` names the main object of every image; docs/evidence.md resamples over these.
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
        kind: "stamps" or "fashion".
        counts: number of scenes by split.
        packages: folder of the .deb files.
        work: folder for the unpacked source images; by default PACKAGES/unpacked.

    Raises:
        UserError: a package is missing, or the folder is not empty.
    """
    folder = work or packages / "unpacked"
    images = unpack(packages, folder)
    splits: dict[str, Composer] = {
        split: composer(kind, split, count, folder=folder, images=images, packages=packages, config=config)
        for split, count in counts.items()
    }
    write_sources(out, splits)
    write_main_objects(out, {split: scenes.main_objects() for split, scenes in splits.items()})


def write_main_objects(out: Path, names: dict[str, list[str]]) -> None:
    """Writes `objects.csv`: the name of the main object of every image, by split."""
    with open(out / "objects.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "object"))
        for split, objects in names.items():
            writer.writerows((f"{split}/images/{index:06}.png", name) for index, name in enumerate(objects))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("stamps", "fashion"))
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument("--packages", type=Path, default=DATA / "packages", help="folder of the .deb files")
    parser.add_argument("--download", action="store_true", help="download missing packages with apt-get")
    parser.add_argument("--size", type=int, default=96, help="side of the images in pixels")
    parser.add_argument("--train", type=int, default=20000, help="number of training images")
    parser.add_argument("--val", type=int, default=2000, help="number of test images")
    parser.add_argument("--min-objects", type=int, default=1, help="fewest objects in a scene")
    parser.add_argument("--max-objects", type=int, default=3, help="most objects in a scene")
    parser.add_argument("--fold", type=int, default=0, choices=(0, 1, 2), help="fold of the source images to test on")
    parser.add_argument("--seed", type=int, default=0, help="another seed composes another data set")
    args = parser.parse_args()
    try:
        config = ComposeConfig(
            size=args.size, min_objects=args.min_objects, max_objects=args.max_objects, fold=args.fold, seed=args.seed
        )  # fmt: skip
        if args.download:
            download(args.packages)
        build(args.kind, args.out, {"train": args.train, "val": args.val}, packages=args.packages, config=config)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
