"""Import of libraries that only some features need, and the message when one is missing."""

import re
from importlib import import_module, metadata
from types import ModuleType

from repre.errors import UserError


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Imports a library of an extra.

    Args:
        module: its name in an import, such as "supervision" or "s3fs".
        extra: the extra of this package that installs it, such as "labels".
        purpose: what needs it, as the beginning of the message: "--data yolo:photos".

    Raises:
        UserError: the library is missing or cannot be imported; the message has the command that installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        root = module.partition(".")[0]
        if (error.name or root).partition(".")[0] == root and isinstance(error, ModuleNotFoundError):
            reason = f"{root}, which is not installed"
        else:
            reason = f"{root}, which cannot be imported ({error})"
        raise UserError(f"{purpose} needs {reason}; run: {install_command(extra)}") from error


def install_command(extra: str) -> str:
    """Returns the command that installs the libraries of an extra.

    The libraries are named one by one, as the metadata of the installed package list them, because that works whether the
    package came from a clone or from a wheel. Without such metadata the source can only be a clone.
    """
    try:
        requirements = metadata.requires("repre") or []
    except metadata.PackageNotFoundError:
        requirements = []
    marked = re.compile(rf"""\bextra\s*==\s*["']{re.escape(extra)}["']""")
    libraries = [line.partition(";")[0].strip() for line in requirements if marked.search(line.partition(";")[2])]
    if not libraries:
        return f"pip install -e '.[{extra}]' in the folder of the clone"
    return "pip install " + " ".join(f"'{library}'" for library in libraries)
