"""Files of labeled data below a folder, without hidden ones, as editors, notebooks and macOS leave them."""

from pathlib import Path

from repre.data.io.decode import EXTENSIONS


def files_below(folder: Path, endings: tuple[str, ...] = EXTENSIONS) -> list[Path]:
    """Files with one of these endings in lower case, sorted; no files and no folders whose name begins with a dot."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in endings and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
