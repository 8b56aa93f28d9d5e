"""Which images a folder holds: a recursive search, and a cache of its result."""

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from repre.data.io.decode import EXTENSIONS
from repre.errors import RunError, UserError
from repre.utils.io import cache_home, write_atomically


def image_names(folder: Path, *, cache_dir: Path | None = None) -> list[str]:
    """Paths of all image files below a folder, relative to it, in a fixed order.

    Args:
        cache_dir: folder of the cache, which is valid while no folder of the tree changes; by default the user's.

    Raises:
        UserError: a folder cannot be read, or there are no images.
    """
    root = folder.resolve()
    cache = (cache_dir or cache_home() / "index") / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:32]}.json"
    names = _read_cache(cache, root)
    if names is None:
        names, folders = _scan(root)
        _write_cache(cache, root, names, folders)
    if not names:
        raise UserError(f"--data: {_describe_content(folder)}")
    return names


def _scan(root: Path) -> tuple[list[str], dict[str, int]]:
    """Image files below `root`, sorted by their bytes, and the modification time of every folder searched.

    Hidden files and folders are skipped. Linked folders are followed once, so that loops end. A dangling link is listed,
    and reported when it is read. A folder that cannot be read is an error, since its images would be missing silently.
    """
    names: list[str] = []
    folders: dict[str, int] = {}
    visited: set[tuple[int, int]] = set()
    pending = [""]
    while pending:
        relative = pending.pop()
        folder = root / relative if relative else root
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            folders[relative] = status.st_mtime_ns
            with os.scandir(folder) as entries:
                for entry in sorted(entries, key=lambda e: os.fsencode(e.name)):
                    name = f"{relative}/{entry.name}" if relative else entry.name
                    if entry.name.startswith("."):
                        continue
                    if _is(entry.is_dir):
                        pending.append(name)
                    elif entry.name.lower().endswith(EXTENSIONS) and (_is(entry.is_file) or _dangles(entry)):
                        names.append(name)
        except PermissionError as error:
            raise UserError(f"--data: no permission to read the folder {folder}") from error
        except OSError as error:
            raise UserError(f"--data: cannot read the folder {folder}: {error.strerror}") from error
    return sorted(names, key=os.fsencode), folders


def _is(test: Callable[[], bool]) -> bool:
    try:
        return test()
    except OSError:  # a link to itself
        return False


def _dangles(entry: "os.DirEntry[str]") -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)


def _describe_content(folder: Path) -> str:
    """What a folder without images holds instead."""
    endings = Counter((Path(name).suffix.lower() or "no ending") for _, _, names in os.walk(folder) for name in names)
    if not endings:
        return f"{folder} is an empty folder; name one that holds images ({', '.join(EXTENSIONS)})"
    counts = ", ".join(f"{count} of {ending}" for ending, count in endings.most_common(4))
    return f"{folder} holds no images, only files with other endings ({counts}); {', '.join(EXTENSIONS)} are read"


def _read_cache(cache: Path, root: Path) -> list[str] | None:
    try:
        content = json.loads(cache.read_text(encoding="ascii"))
        if content["root"] != str(root) or content["endings"] != list(EXTENSIONS):
            return None
        for relative, modified in content["folders"].items():
            if os.stat(root / relative if relative else root).st_mtime_ns != modified:
                return None
        return list(content["names"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_cache(cache: Path, root: Path, names: list[str], folders: dict[str, int]) -> None:
    """Best effort: without the cache the next run searches again."""
    content = {"root": str(root), "endings": list(EXTENSIONS), "folders": folders, "names": names}
    with contextlib.suppress(OSError, RunError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(cache, lambda file: file.write(json.dumps(content).encode("ascii")))
