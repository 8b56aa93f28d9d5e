"""What the sources of images cost: start and memory with up to ten million entries, and images per second beside a folder.

    python benchmarks/sources.py scale --workers 16
    python benchmarks/sources.py speed photos/

Scale: from the `--data` string to the first batches of a loader, as a run starts: open, write the manifest, make workers.
The lists exist already, as in the second start of a run. Memory is that of this process and all workers (proportional set
size), less that of the same with the smallest number of entries.

Speed: the loader with two workers and a batch of 64, from files to canvases; every round measures all sources one after
another, and a source is compared with the folder of the same round. S3 is moto's server and HTTP Python's, both on this
machine, so they measure requests and the client, not a network.
"""

import argparse
import contextlib
import functools
import gc
import http.server
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
from machine import describe_machine, machine
from PIL import Image

from repre.data.io import archives, folder_index
from repre.data.io.archives import TABLE, ArchiveFiles
from repre.data.io.blobs import LocalBlob
from repre.data.io.names import Names
from repre.data.io.sources import open_source
from repre.data.loading.loader import Loader
from repre.data.loading.manifest import apply_manifest, manifest_hash, write_manifest

HERE = Path(__file__).parent
KINDS = ("text list", "folder", "tar", "arrow")
LEVELS = 24
"""Folders a/ and b/ in a name, both links to the same place: names that differ and lead to one file."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    scale = commands.add_parser("scale")
    scale.add_argument("--entries", type=int, nargs="*", default=[10**4, 10**6, 10**7])
    scale.add_argument("--workers", type=int, default=16)
    scale.add_argument("--kinds", nargs="*", default=KINDS, choices=KINDS)
    scale.add_argument("--out", type=Path, default=HERE / "results")
    one = commands.add_parser("one")  # a process of `scale`
    one.add_argument("data")
    one.add_argument("workers", type=int)
    speed = commands.add_parser("speed")
    speed.add_argument("folder", type=Path, help="JPEG files")
    speed.add_argument("--images", type=int, default=1024, help="images of a measurement; the files repeat")
    speed.add_argument("--rounds", type=int, default=5, help="rounds, after one to warm up")
    speed.add_argument("--out", type=Path, default=HERE / "results")
    args = parser.parse_args()
    if args.command == "one":
        print(json.dumps(start(args.data, args.workers)))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    results = {"machine": machine("cpu")}
    with tempfile.TemporaryDirectory() as folder:
        if args.command == "scale":
            results |= {"workers": args.workers, "rows": measure_scale(Path(folder), args)}
        else:
            results |= {"rows": measure_speed(Path(folder), args)}
    (args.out / f"sources-{args.command}.json").write_text(json.dumps(results, indent=1) + "\n")
    print(f"\n{describe_machine(results['machine'])}")


# -------------------------------------------------------------------------------------------------------------- scale


def measure_scale(folder: Path, args: argparse.Namespace) -> list[dict[str, object]]:
    os.environ["REPRE_CACHE"] = str(folder / "cache")
    rows: list[dict[str, object]] = []
    print(
        f"| source | entries | seconds to the first batch | GiB more than {args.entries[0]} entries | manifest, MiB |"
    )
    print("|---|---|---|---|---|")
    for kind in args.kinds:
        base = None
        for count in args.entries:
            data = make_large(folder / f"{kind.replace(' ', '-')}{count}", kind, count)
            process = subprocess.run(
                [sys.executable, __file__, "one", data, str(args.workers)], capture_output=True, text=True, check=False
            )
            if process.returncode:
                raise SystemExit(process.stderr[-3000:])
            row = json.loads(process.stdout.splitlines()[-1])
            base = row["bytes"] if base is None else base
            row |= {"kind": kind, "entries": count, "more_gib": (row["bytes"] - base) / 2**30}
            rows.append(row)
            print(
                f"| {kind} | {count} | {row['seconds']:.1f} | {row['more_gib']:.2f} | {row['manifest'] / 2**20:.1f} |",
                flush=True,
            )
    return rows


def start(data: str, workers: int) -> dict[str, float]:
    """Opens data as a run does, up to the first batch; gives seconds and memory."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.monotonic()
        manifest = Path(folder) / "files.gz"
        source = open_source(data, canvas=16, labels=False)
        write_manifest(source, manifest)
        source, _ = apply_manifest(source, manifest)
        manifest_hash(source)
        loader = Loader(source, batch_size=64, epochs=1, seed=0, canvas=16, workers=workers, log=lambda _: None)
        batches = iter(loader)
        for batch in islice(batches, 8):
            if batch.failures:
                raise SystemExit(f"unreadable: {batch.failures[0]}")
        seconds = time.monotonic() - begin
        gc.collect()
        return {"seconds": seconds, "bytes": family_memory(), "manifest": manifest.stat().st_size}


def family_memory() -> int:
    """Proportional set size of this process and its children in bytes."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    total = 0
    for pid in [str(os.getpid()), *children]:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += 1024 * int(line.split()[1])
    return total


def make_large(folder: Path, kind: str, count: int) -> str:
    """Makes data of many entries that all lead to the same few bytes, with a list of them in the cache."""
    folder.mkdir()
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "png")
    (folder / "i.png").write_bytes(content.getvalue())
    if kind == "arrow":
        return make_arrow(folder / "rows.arrow", count, content.getvalue())
    if kind == "tar":
        return make_tar(folder, count)
    for name in "ab":
        (folder / name).symlink_to(".")
    names = Names.of(
        b"".join(b"b/" if number >> bit & 1 else b"a/" for bit in range(LEVELS - 1, -1, -1)) + b"i.png"
        for number in range(count)
    )
    if kind == "text list":
        with open(folder / "list.txt", "wb") as file:
            file.writelines(os.fsencode(name) + b"\n" for name in names)
        return str(folder / "list.txt")
    root = folder.resolve()
    cache = folder_index.cache_path(root, any_ending=False)
    folder_index.write_cache(cache, root, folder_index.Listing(names, {}), {"": os.stat(root).st_mtime_ns})
    return str(folder)


def make_tar(folder: Path, count: int) -> str:
    with tarfile.open(folder / "one.tar", "w") as tar:
        tar.add(folder / "i.png", "i.png")
    blob = LocalBlob(folder / "one.tar")
    place = archives.open_archives([blob]).table[0]
    names = Names.of(f"images/{number:012}/photo.png".encode() for number in range(count))
    table = np.full(count, place, TABLE)
    archives.write_cache(archives.cache_path([blob]), ArchiveFiles([blob], [blob.stamp()], [count], names, table))
    return str(blob.path)


def make_arrow(path: Path, count: int, content: bytes) -> str:
    import pyarrow as pa

    batch = min(count, 10_000)
    images = pa.array(
        [{"bytes": content, "path": None}] * batch, pa.struct({"bytes": pa.binary(), "path": pa.string()})
    )
    rows = pa.record_batch({"image": images})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, rows.schema) as writer:
        for _ in range(count // batch):
            writer.write_batch(rows)
    return str(path)


# -------------------------------------------------------------------------------------------------------------- speed


def measure_speed(folder: Path, args: argparse.Namespace) -> list[dict[str, object]]:
    os.environ["REPRE_CACHE"] = str(folder / "cache")
    photos = folder / "photos"
    photos.mkdir()
    files = sorted(args.folder.rglob("*.jpg"))
    for number in range(args.images):
        (photos / f"{number:06}.jpg").write_bytes(files[number % len(files)].read_bytes())
    rates: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        sources = {name: make(photos, folder, stack) for name, make in SOURCES.items()}
        for number in range(1 + args.rounds):
            for name, data in sources.items():
                rate = images_per_second(data, args.images)
                if number:
                    rates.setdefault(name, []).append(rate)
    print(f"{args.images} images of {args.folder}; medians and ranges of {args.rounds} rounds\n")
    print("| source | images/s | of the folder |")
    print("|---|---|---|")
    rows: list[dict[str, object]] = []
    for name, values in rates.items():
        shares = [mine / folder for mine, folder in zip(values, rates["folder"])]
        rows.append({"source": name, "images_per_s": values, "share": shares})
        print(f"| {name} | {spread(values, '.0f')} | {spread(shares, '.2f')} |")
    return rows


def spread(values: list[float], form: str) -> str:
    """Median and range."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def images_per_second(data: str, count: int) -> float:
    source = open_source(data, canvas=512)
    loader = Loader(source, batch_size=64, epochs=1, seed=0, canvas=512, workers=2, log=lambda _: None)
    batches = iter(loader)
    next(batches)
    begin, shown = time.monotonic(), 0
    for batch in batches:
        if batch.failures:
            raise SystemExit(f"{data}: {batch.failures[0]}")
        shown += len(batch.indices)
    return shown / (time.monotonic() - begin)


def make_shards(photos: Path, folder: Path, stack: contextlib.ExitStack) -> str:
    files = sorted(photos.iterdir())
    (folder / "shards").mkdir()
    for number in range(8):
        with tarfile.open(folder / f"shards/{number:04}.tar", "w") as tar:
            for path in files[number * len(files) // 8 : (number + 1) * len(files) // 8]:
                tar.add(path, path.name)
    return f"{folder}/shards/{{0000..0007}}.tar"


def make_zip(photos: Path, folder: Path, stack: contextlib.ExitStack) -> str:
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        for path in sorted(photos.iterdir()):
            archive.write(path, path.name)
    return str(folder / "photos.zip")


def make_saved(photos: Path, folder: Path, stack: contextlib.ExitStack) -> str:
    import datasets

    rows = {"image": [{"bytes": path.read_bytes(), "path": None} for path in sorted(photos.iterdir())]}
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(folder / "saved"))
    return f"hf:{folder}/saved"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


def make_http(photos: Path, folder: Path, stack: contextlib.ExitStack) -> str:
    (photos.parent / "list.txt").write_text("".join(f"photos/{path.name}\n" for path in sorted(photos.iterdir())))
    handler = functools.partial(_Quiet, directory=str(photos.parent))
    server = stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stack.callback(server.shutdown)
    return f"http://127.0.0.1:{server.server_address[1]}/list.txt"


def make_s3(photos: Path, folder: Path, stack: contextlib.ExitStack) -> str:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    stack.callback(server.stop)
    host, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }
    client = boto3.client("s3")
    client.create_bucket(Bucket="photos")
    for path in sorted(photos.iterdir()):
        client.put_object(Bucket="photos", Key=path.name, Body=path.read_bytes())
    return "s3://photos/"


SOURCES: dict[str, Callable[[Path, Path, contextlib.ExitStack], str]] = {
    "folder": lambda photos, folder, stack: str(photos),
    "tar shards": make_shards,
    "zip": make_zip,
    "hf: saved data set": make_saved,
    "http, local cache from the second round": make_http,
    "s3, local cache from the second round": make_s3,
}


if __name__ == "__main__":
    main()
