"""Files of labeled data below a folder, without hidden ones, as editors, notebooks and macOS leave them."""

from pathlib import Path

from repre.data.io.decode import EXTENSIONS
from repre.data.io.folder_index import is_hidden


def files_below(folder: Path, endings: tuple[str, ...] = EXTENSIONS) -> list[Path]:
    """Files with one of these endings in lower case, sorted; none that are hidden."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in endings and not any(is_hidden(part) for part in path.relative_to(folder).parts)
    )
