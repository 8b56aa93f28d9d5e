"""Loads data sets by the library `datasets` of Hugging Face, memory-mapped: from the hub, a saved folder, or tables.

hf:NAME                     of the hub; it is downloaded once, into the library's own cache
hf:FOLDER                   written by `save_to_disk`, or a copy of a data set of the hub
hf:photos.parquet           tables of images, also .arrow; several by a pattern or braces
hf:NAME:SPLIT               one split of these
hf:NAME?image=COLUMN&label=COLUMN&subset=SUBSET&revision=REVISION       where there are several

Data sets are never streamed, because a seeded order needs any row at any time, and their code is never run.
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode

from repre.data.io.local_files import is_file
from repre.data.io.spec_patterns import expand_braces, expand_pattern, has_pattern
from repre.errors import UserError, near_names
from repre.utils.optional_imports import require

TABLES = ARROW, PARQUET = ".arrow", ".parquet"
"""Endings of tables, in lower case."""
SPLITS = {"train": ("train",), "val": ("validation", "val", "valid", "dev"), "test": ("test",)}
"""Our names of splits, and what data sets call them."""
OPTIONS = ("image", "label", "subset", "revision")
SECRET = re.compile(r"\bhf_\w+|(?<=\?)\S+")
"""Access tokens, and the part of an address that may be signed."""
MAX_REASON = 300


@dataclass(frozen=True)
class HubSpec:
    """A data set of Hugging Face as the user names it.

    Attributes:
        text: the whole ``--data`` string.
        name: name on the hub, folder, or pattern of tables.
        split: name of the split; empty if none is named.
        image, label: columns; empty: found by their types.
        subset, revision: of a data set of the hub that has several; empty: its default.
    """

    text: str
    name: str
    split: str = ""
    image: str = ""
    label: str = ""
    subset: str = ""
    revision: str = ""

    def with_split(self, split: str) -> str:
        """The ``--data`` string of one split."""
        options = urlencode([(key, value) for key in OPTIONS if (value := getattr(self, key))], safe="/")
        return f"hf:{self.name}" + (f":{split}" if split else "") + (f"?{options}" if options else "")


class HubData(NamedTuple):
    """A loaded data set.

    Attributes:
        splits: a `datasets.Dataset` for each split; only "" if it has no splits.
        modified: when its files were modified, in nanoseconds; 0 for one of the hub, whose revisions have own files.
    """

    splits: dict[str, Any]
    modified: int


def parse_hub_spec(text: str, rest: str) -> HubSpec:
    """Splits NAME[:SPLIT][?OPTIONS] into its parts; a path that exists is taken as it is.

    Raises:
        UserError: an unknown option, or no name.
    """
    spec = HubSpec(text, rest)
    if not os.path.exists(os.path.expanduser(rest)) and (options := re.fullmatch(r"(.+?)\?([a-z]+=.*)", rest)):
        values = dict(parse_qsl(options[2], keep_blank_values=True))
        for key in values:
            if key not in OPTIONS:
                raise UserError(
                    f"--data {text}: no option {key!r}{near_names(key, OPTIONS)}; there are {', '.join(OPTIONS)}"
                )
        spec = replace(spec, name=options[1], **values)
    name, colon, split = spec.name.rpartition(":")
    if colon and not os.path.exists(os.path.expanduser(spec.name)) and re.fullmatch(r"\w[\w.-]*", split):
        spec = replace(spec, name=name, split=split)
    if not spec.name:
        raise UserError(f"--data {text}: name a data set, such as hf:NAME, hf:NAME:SPLIT or hf:FOLDER")
    return spec


def load_hub(spec: HubSpec) -> HubData:
    """Loads a data set; one of the hub is downloaded unless the library's cache holds it.

    Raises:
        UserError: the library is missing; the data set does not exist, is damaged, or cannot be downloaded.
    """
    datasets = require("datasets", extra="hf", purpose=f"--data {spec.text}")
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    path = Path(spec.name).expanduser()
    with _explained(spec):
        if spec.name.lower().endswith(TABLES):
            return _load_tables(datasets, spec)
        if path.is_dir():
            if is_saved_data_set(path):
                content = datasets.load_from_disk(str(path), keep_in_memory=False)
                pattern = f"*{ARROW}"
            else:
                content = datasets.load_dataset(str(path.resolve()), keep_in_memory=False)
                pattern = "*"
            return HubData(_splits(content), _modified(path.rglob(pattern)))
        if spec.name.startswith((".", "~", "/")) or spec.name.count("/") > 1:
            raise UserError(f"--data {spec.text}: there is no folder {path}")
        content = datasets.load_dataset(
            spec.name, spec.subset or None, revision=spec.revision or None, keep_in_memory=False
        )
        return HubData(_splits(content), 0)


def is_saved_data_set(folder: Path) -> bool:
    """Whether Hugging Face's `save_to_disk` wrote a folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "dataset_info.json").is_file()


def _load_tables(datasets: Any, spec: HubSpec) -> HubData:
    files: list[Path] = []
    for one in expand_braces(spec.name):
        if not is_file(Path(one).expanduser()) and has_pattern(one):
            root, found = expand_pattern(one)
            files += [root / name for name in found]
        else:
            files.append(Path(one).expanduser())
    for file in files:
        if not is_file(file):
            siblings = [p.name for p in file.parent.iterdir()] if file.parent.is_dir() else []
            raise UserError(f"--data {spec.text}: there is no file {file}{near_names(file.name, siblings)}")
    if spec.name.lower().endswith(ARROW):
        parts = [datasets.Dataset.from_file(str(file)) for file in files]
        content = parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)
    else:
        paths = [str(file.resolve()) for file in files]
        content = datasets.load_dataset("parquet", data_files=paths, split="train", keep_in_memory=False)
    return HubData({"": content}, _modified(files))


def _splits(content: Any) -> dict[str, Any]:
    return {str(name): part for name, part in content.items()} if isinstance(content, dict) else {"": content}


def _modified(files: Iterable[Path]) -> int:
    """When the newest file was modified, without what the library's own transforms leave in the folder."""
    return max((file.stat().st_mtime_ns for file in files if not file.name.startswith("cache-")), default=0)


def choose_split(spec: HubSpec, data: HubData, *, split: str) -> str:
    """The name of the split that the spec names, else of the one that stands for `split`, train or val.

    Raises:
        UserError: there is none.
    """
    names = list(data.splits)
    if names == [""]:
        if spec.split:
            raise UserError(f"--data {spec.text}: it has no splits; leave :{spec.split} out")
        return ""
    wanted = [spec.split] if spec.split else [*SPLITS.get(split, (split,)), *(["test"] if split == "val" else [])]
    for name in wanted:
        if name in names:
            return name
    raise UserError(
        f"--data {spec.text}: no split {wanted[0]!r}{near_names(wanted[0], names)}; there are {', '.join(names)} (name one: "
        f"{spec.with_split(names[0])})"
    )


@contextmanager
def _explained(spec: HubSpec) -> Iterator[None]:
    """Errors of the library as messages."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of `datasets`, `huggingface_hub`, an HTTP client, Arrow, the disk
        kinds = {kind.__name__ for cause in (error, error.__cause__, error.__context__) for kind in type(cause).__mro__}
        reason = SECRET.sub("...", " ".join(str(error).split()))[:MAX_REASON]
        raise UserError(f"--data {spec.text}: {_advice(spec, kinds, reason)}") from None


def _advice(spec: HubSpec, kinds: set[str], reason: str) -> str:
    """What happened and what helps.

    Args:
        kinds: names of the classes of the error and of its causes.
        reason: the library's own words.
    """
    local = os.path.exists(os.path.expanduser(spec.name)) or spec.name.lower().endswith(TABLES)
    if local:
        return f"it cannot be read as a data set ({reason}); write it again with save_to_disk or to_parquet"
    if "GatedRepoError" in kinds or "gated" in reason.lower():
        return f"it is gated; ask for access on its page, then run: hf auth login ({reason})"
    if "OfflineModeIsEnabled" in kinds or "OfflineModeIsEnabled" in reason:
        return "it is not in the cache, and HF_HUB_OFFLINE forbids a download; unset it, or download the data set first"
    if kinds & {"DatasetNotFoundError", "RepositoryNotFoundError", "HFValidationError"}:
        return (
            f"there is no folder {spec.name} and no such data set on the hub; check the name, or if it is private run: hf "
            f"auth login ({reason})"
        )
    if kinds & {"ConnectionError", "ConnectError", "LocalEntryNotFoundError", "TimeoutException", "Timeout"}:
        return f"the hub cannot be reached ({reason}); check the network, or download the data set elsewhere"
    if "onfig name is missing" in reason or "BuilderConfig" in reason:
        return f"name one of its subsets: {replace(spec, subset='SUBSET').with_split(spec.split)} ({reason})"
    return f"it cannot be loaded ({reason})"
