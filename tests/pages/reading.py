"""What a page tells people to run, in its order: commands in code blocks and in the text, and Python blocks."""

import re
from dataclasses import dataclass
from pathlib import Path

from tests.site.markdown_pages import PAGES, ROOT

FENCE = re.compile(r"^ *```([^\n]*)\n(.*?)^ *```", re.M | re.S)
SPAN = re.compile(r"`((?:repre|torchrun|python) [^`]+)`")
SHELL = ("bash", "sh", "shell", "console")
"""Languages of blocks in which every line must be a command that is known here."""
RUN = ("repre", "torchrun", "python", "sbatch")
OTHERS = (
    "pip",
    "docker",
    "make",
    "git",
    "cd",
    "source",
    "export",
    "ssh",
    "apt-get",
    "curl",
    "mkdir",
    "mount",
    "unshare",
    "jupyter",
)
"""Commands that no test runs here: of other programs, and `make`, whose targets tests/test_docs.py looks up."""
BEFORE = re.compile(r"^(?:\$ |srun |exec |! ?|[A-Z][A-Z0-9_]*=\S* )+")
"""What may stand before a command: a prompt, a launcher, variables of the environment."""


@dataclass(frozen=True)
class Step:
    """One thing that a page tells people to run."""

    page: str
    line: int
    text: str
    """The command on one line without its comment, or the Python block."""
    comment: str = ""
    python: bool = False

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


class UnknownCommand(Exception):
    """A line of a shell block that is no command known here."""


def pages() -> list[Path]:
    """All pages but the history of the project, whose commands are those of their time."""
    return [page for page in PAGES if page.name != "CHANGELOG.md" and "results" not in page.parts]


def steps(page: Path) -> list[Step]:
    """What a page tells people to run, in its order."""
    name, text = page.relative_to(ROOT).as_posix(), page.read_text(encoding="utf-8")
    found: list[Step] = []
    prose = text
    for block in FENCE.finditer(text):
        language, content = block.group(1).strip().split(" ")[0], block.group(2)
        line = text.count("\n", 0, block.start()) + 2
        if language == "python":
            found.append(Step(name, line, content, python=True))
        elif language in ("", *SHELL):
            found.extend(_commands(name, line, content, must_be_known=language in SHELL))
        prose = prose.replace(block.group(), re.sub(r"[^\n]", " ", block.group()), 1)
    for span in SPAN.finditer(prose):
        command = " ".join(span.group(1).replace("\\|", "|").split())
        if _is_complete(command):
            found.append(Step(name, prose.count("\n", 0, span.start()) + 1, command))
    return sorted(found, key=lambda step: step.line)


def _commands(page: str, line: int, block: str, *, must_be_known: bool) -> list[Step]:
    found = []
    for part in re.sub(r"\\\n", "\\\\\0", block).split("\n"):
        text, _, comment = part.replace("\\\0", " ").partition(" #")
        command = BEFORE.sub("", " ".join(text.split()))
        if command.startswith(tuple(f"{word} " for word in RUN)) and not re.match(
            r"python -(c|m (build|pip|venv)) ", command
        ):
            found.append(Step(page, line, command, comment.strip()))
            if comment.startswith(" and --"):  # the same command with a further option
                found.append(Step(page, line, command + comment.removeprefix(" and")))
        elif must_be_known and command and not command.startswith(("#", "python", *OTHERS)):
            raise UnknownCommand(
                f"{page}:{line}: {command!r} is no command that tests/pages/reading.py knows: add its first word to RUN or "
                "to OTHERS, or give the block another language"
            )
        line += part.count("\0") + 1
    return found


def _is_complete(command: str) -> bool:
    """Whether a command in the text is one to type, and not the name of a command or a form with places to fill in."""
    if re.search(r"\.\.\.|…|\||[\[{<]", command):
        return False
    if command.startswith("python "):
        return ".py" in command or " -m " in command
    if "--help" in command:
        return False
    names = "/" in command or re.search(r" [A-Z]+\b", command) is not None
    return names or re.match(r"repre pretrain --\S+ [^-]", command) is not None
