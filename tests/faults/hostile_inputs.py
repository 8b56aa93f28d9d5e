"""Hostile inputs of the area `hostile`: COCO's JSON, names with control characters, names that climb, odd images."""

import json
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from repre.config import dump_yaml
from repre.data.io.sources import open_source
from repre.data.loading.loader import Loader
from repre.data.loading.sub_batches import CanvasJoiner
from repre.types import MixedCanvases
from repre.utils.printable_text import CONTROL
from tests.faults.common import ForkedCommand, Row, cli_arguments, tiny_run
from tests.faults.evaluations import ENCODER

NASTY = 'e\x1b]0;x\x07\x1b[2J\n\u202e,\t"<b>'
"""A name with what clears a terminal, ends a line, turns the direction of text, and quotes."""


def run_alone(arguments: Sequence[str], folder: Path, *, before: Callable[[], object] | None = None) -> tuple[int, str]:
    """Exit code and output of `repre ARGUMENTS` in a forked process with a cache of its own."""
    environment = {"REPRE_CACHE": str(folder / "cache")}
    output_file = folder / f"out-{time.monotonic_ns()}.txt"
    command = ForkedCommand([*arguments], output_file, before=before, environment=environment)
    return command.wait(), command.output()


def annotations(count: int = 10) -> dict[str, Any]:
    """COCO's JSON with one object in each of some images."""
    box = {"category_id": 1, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0, "segmentation": [[1, 1, 6, 1, 6, 6]]}
    return {
        "images": [{"id": n, "file_name": f"{n:03d}.png", "height": 32, "width": 32} for n in range(count)],
        "annotations": [{"id": n, "image_id": n, **box} for n in range(count)],
        "categories": [{"id": 1, "name": "x"}, {"id": 2, "name": "y"}],
    }


def coco_spec(folder: Path, photos: Path, name: str, content: dict[str, Any] | str) -> str:
    path = folder / f"{name}.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return f"coco:{photos},{path}"


def coco(folder: Path, readers: list[str]) -> Row:
    """Reads annotations of all kinds that no program should write, with a check and with an evaluation."""
    photos, nan, nested = folder / "photos", float("nan"), "[" * 100_000 + "]" * 100_000
    one = annotations()["annotations"][0]
    changes: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
        "a list as id": (r"entry 3 of 'annotations'", lambda c: c["annotations"][2].update(id=[1])),
        "200,000 classes": (
            "200000 classes",
            lambda c: c.update(categories=[{"id": n, "name": f"c{n}"} for n in range(200_000)]),
        ),
        "20,000 boxes in an image": (
            r"image 0 .*20001 objects",
            lambda c: c["annotations"].extend({**one, "id": 100 + n} for n in range(20_000)),
        ),
        "a polygon of NaN": ("annotation 2", lambda c: c["annotations"][2].update(segmentation=[[1, 1, nan, 5, 5, 5]])),
        "infinity": (
            "annotation 2",
            lambda c: c["annotations"][2].update(segmentation=[[1, 1, 9, float("inf"), 5, 5]]),
        ),
        "a number of 400 digits": ("annotation 2", lambda c: c["annotations"][2].update(segmentation=[[10**400] * 6])),
        "run lengths of 10^10": (
            "annotation 2",
            lambda c: c["annotations"][2].update(segmentation={"size": [10**5, 10**5], "counts": [10**10]}),
        ),
        "an image of 10^9 pixels": (r"image 2", lambda c: c["images"][2].update(height=10**9)),
        "a list as name": (r"entry 3 of 'images'", lambda c: c["images"][2].update(file_name=["a"])),
    }
    specs = {}
    for number, (kind, (words, change)) in enumerate(changes.items()):
        content = annotations()
        change(content)
        specs[kind] = words, coco_spec(folder, photos, f"coco{number}", content)
    for number, text in enumerate((nested, f'{{"images": {nested}}}')):
        specs[f"nested 100,000 deep ({number + 1})"] = (
            "nested too deeply",
            coco_spec(folder, photos, f"deep{number}", text),
        )
    clear, others = 0, []
    for kind, (words, spec) in specs.items():
        for reader in readers:
            check = ["data", "check", "--labels", spec]
            fit = ["eval", "detect", "--encoder", ENCODER, "--data", spec, "--test", spec, "--width", "16"]
            code, output = run_alone(check if reader == "check" else [*fit, "--fit.epochs", "1"], folder)
            good = (
                code in ((1, 2) if reader == "check" else (2,))
                and re.search(words, output)
                and "Traceback" not in output
            )
            clear += bool(good)
            others += [] if good else [f"{kind}, {reader}: code {code}, {output[-200:]}"]
    count = len(specs) * len(readers)
    return Row(
        "Hostile input",
        f"COCO's JSON: {', '.join(changes)}, nested 100,000 deep; by repre data check --labels"
        + (" and repre eval detect" if "detect" in readers else ""),
        count,
        f"{clear} of {count} were refused with the entry or annotation{'; '.join(['', *others])}",
        "nothing",
        clear == count,
    )


def control_characters(folder: Path, photos: Path, *, short: bool) -> Row:
    """Names files and classes with control characters, and looks for them in all that commands print and write."""
    data, places = folder / "nasty", [folder / f"nasty-{name}" for name in ("run", "linear", "predicted")]
    for number in range(24):
        place = data / f"{'ab'[number % 2]}{NASTY}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{NASTY}{number}.png").write_bytes((photos / f"{number:03d}.png").read_bytes())
    bad = [data / f"a{NASTY}" / f"{NASTY}bad{number}.png" for number in range(2)]
    for path in bad:
        path.write_text("no image")
    config = replace(tiny_run(places[0]), data=str(data))
    config = replace(config, loader=replace(config.loader, max_unreadable=0.5), epochs=1)
    (folder / "nasty.yaml").write_text(dump_yaml(config))
    features = folder / "nasty.npz"
    commands = [
        ["pretrain", "--config", str(folder / "nasty.yaml"), "--out", str(places[0])],
        ["data", "check", str(data)],
    ]
    commands += [["embed", "--encoder", ENCODER, "--data", str(data), "--out", str(features), "--map", "pca"]]
    texts, codes = [], []
    for command in commands:
        code, output = run_alone(command, folder)
        codes.append(code)
        texts.append(output)
    for path in bad:
        path.unlink()
    if not short:
        linear = ["eval", "linear", "--encoder", ENCODER, "--data", str(data), "--steps", "4", "--accept-labels"]
        for command in [[*linear, "--out", str(places[1])], ["data", "check", "--labels", str(data)]]:
            code, output = run_alone(command, folder)
            codes.append(code)
            texts.append(output)
        result = next(places[1].glob("*.json"))
        code, output = run_alone(["predict", "--model", str(result), str(data), "--out", str(places[2])], folder)
        codes.append(code)
        texts.append(output)
    written = [path for place in places for path in place.rglob("*") if path.suffix in (".txt", ".csv", ".html", ".md")]
    written += [features.with_name("nasty.map.csv"), features.with_name("nasty.npz.unreadable.txt")]
    texts += [path.read_text(errors="surrogateescape") for path in written]
    raw = sum(bool(CONTROL.search(text.replace("\n", "").replace("\t", ""))) for text in texts)
    unreadable = (places[0] / "unreadable.txt").read_text().splitlines()
    with np.load(features) as arrays:
        opened = sum(Path(str(path)).is_file() for path in arrays["paths"])
    expected = [0, 1, 0] if short else [0, 1, 0, 0, 0, 0]
    return Row(
        "Hostile input",
        "names of files and classes with escape sequences, line breaks, a change of the direction of text, quotes: "
        + (
            "pretrain, data check, embed"
            if short
            else "pretrain, data check, embed, eval, data check --labels, predict"
        ),
        len(codes),
        f"ended with codes {codes}; {raw} of {len(texts)} outputs, lists, tables and pages hold a raw control character; "
        f"{len(unreadable)} lines for 2 unreadable files; {opened} of 24 names in the .npz open their file",
        "nothing",
        codes == expected and not raw and len(unreadable) == 2 and opened == 24,
    )


def climbing_names(folder: Path, photos: Path, *, short: bool) -> Row:
    """Lists, tables and COCO may name files anywhere; only images are read, and a run resumes."""
    place = folder / "lists" / "deep"
    place.mkdir(parents=True)
    names = [f"../../{photos.name}/{n:03d}.png" if n % 2 else f"{photos}/{n:03d}.png" for n in range(16)]
    (place / "list.txt").write_text("\n".join(names) + "\n")
    (place / "table.csv").write_text(
        "path,label\n" + "".join(f"{name},{'xy'[n // 8]}\n" for n, name in enumerate(names))
    )
    content = annotations(16)
    for image, name in zip(content["images"], names):
        image["file_name"] = name.replace(f"../../{photos.name}", f"../{photos.name}")
    (place / "coco.json").write_text(json.dumps(content))
    (place / "secret.txt").write_text("../../../../../../../../../etc/passwd\n/etc/passwd\n" + names[0] + "\n")
    config = replace(tiny_run(folder / "climbing"), data=str(place / "list.txt"))
    knn = [
        "eval",
        "knn",
        "--encoder",
        ENCODER,
        "--data",
        f"csv:{place / 'table.csv'}",
        "--out",
        str(folder / "climbed"),
    ]
    commands = [
        ["data", "check", str(place / "list.txt")],
        ["data", "check", "--labels", f"coco:{photos},{place / 'coco.json'}"],
    ]
    commands += [] if short else [cli_arguments(config, folder), cli_arguments(config, folder), knn]
    codes = [run_alone(command, folder)[0] for command in commands]
    code, output = run_alone(["data", "check", str(place / "secret.txt")], folder)
    refused = code == 1 and output.count("not an image") == 2 and "root:" not in output
    return Row(
        "Hostile input",
        "names with ../.. and absolute names: a text list, COCO's JSON"
        + ("" if short else ", a run and the same command again, a table of labels")
        + "; a list with /etc/passwd",
        len(codes) + 1,
        f"read as documented, with codes {codes}; of /etc/passwd nothing is shown but that it is no image: {refused}",
        "nothing",
        not any(codes) and refused,
    )


def pages_in_color(folder: Path) -> Row:
    """Reads TIFF files of several pages in color."""
    pages = np.random.default_rng(0).integers(0, 255, (4, 32, 40, 3), dtype=np.uint8)
    place = folder / "pages"
    place.mkdir()
    writers: dict[str, Callable[[Path], object]] = {
        "plain": lambda path: tifffile.imwrite(path, pages, photometric="rgb"),
        "deflate": lambda path: tifffile.imwrite(path, pages, photometric="rgb", compression="zlib"),
        "planar": lambda path: tifffile.imwrite(
            path, np.ascontiguousarray(pages.transpose(0, 3, 1, 2)), photometric="rgb", planarconfig="separate"
        ),
        "imagej": lambda path: tifffile.imwrite(path, pages, imagej=True),
        "ome": lambda path: tifffile.imwrite(
            path, pages.reshape(2, 2, 32, 40, 3), ome=True, photometric="rgb", metadata={"axes": "TZYXS"}
        ),
        "pillow": lambda path: Image.fromarray(pages[0]).save(
            path, save_all=True, append_images=[Image.fromarray(page) for page in pages[1:]]
        ),
    }
    for name, write in writers.items():
        write(place / f"{name}.tif")
    source = open_source(str(place))
    first = sum(np.array_equal(source.load(index), pages[0]) for index in range(len(source)))
    code, output = run_alone(["data", "check", str(place)], folder)
    told = f"{len(writers)} files hold several frames or pages" in output
    return Row(
        "Hostile input",
        f"TIFF files of four pages in color: {', '.join(writers)}",
        len(writers),
        f"the first page of {first} was read as it is, and repre data check says so: {told}",
        "the other pages",
        first == len(writers) and told and code == 0,
    )


def one_deep_image(folder: Path, photos: Path) -> Row:
    """Replaces one of 256 images by one of 16 bits, and counts the bytes of the batch."""
    place = folder / "deep"
    place.mkdir()
    numbers = random.Random(0)
    for number in range(256):
        (place / f"{number:03d}.png").write_bytes((photos / f"{numbers.randrange(64):03d}.png").read_bytes())

    def size() -> int:
        loader = Loader(open_source(str(place)), batch_size=256, epochs=1, seed=0, canvas=32, workers=2)
        joiner = CanvasJoiner(256)
        for batch in loader:
            joiner.add(batch.pixels)
        assert joiner.pixels is not None
        groups = joiner.pixels.groups if isinstance(joiner.pixels, MixedCanvases) else [joiner.pixels]
        return sum(group.untyped_storage().nbytes() for group in groups)

    before = size()
    Image.fromarray(np.full((32, 32), 300, np.uint16)).save(place / "100.png")
    after = size()
    one = before // 256
    return Row(
        "Hostile input",
        "one PNG of 16 bits in a batch of 256 images of 8 bits",
        1,
        f"the canvases of the batch take {after} bytes instead of {before}: like {(after - before) / one:.1f} more images "
        "of 8 bits",
        "nothing",
        after - before == 2 * one,
    )
