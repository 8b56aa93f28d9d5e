"""Writes docs/config.md: every setting of a run, from the dataclasses that the program reads.

    python docs/make_config.py

A test compares the page with what this gives.
"""

import dataclasses
import typing
from pathlib import Path
from typing import Any

from docstring_parser import parse_from_object

from repre.config import RunConfig
from repre.frameworks import FRAMEWORKS, FrameworkConfig

PAGE = Path(__file__).with_name("config.md")
INTRODUCTION = """# Settings of a run

Written by `docs/make_config.py`. Every setting can be given on the command line (`--optim.lr 1e-3`), in a YAML file
(`--config FILE`; each run writes its own to `config.yaml`) and from Python (`repre.RunConfig`). The defaults here are those
of the classes; a recipe changes some of them, and `repre pretrain RECIPE --help` shows its own. "none" is `null` in YAML and
`None` on the command line; switches are `true` or `false` in YAML, and `--runtime.shard` or `--runtime.no-shard`
on the command line.
"""


def page() -> str:
    """The whole page in Markdown."""
    parts = [INTRODUCTION, f"## The run\n\n{_table(RunConfig, '')}"]
    parts += [_section(name, kind) for name, kind in _groups(RunConfig)]
    return "\n".join(parts)


def _section(name: str, kind: type) -> str:
    if kind is FrameworkConfig:
        words = "## framework\n\nChosen by the recipe; in YAML by `name`.\n"
        return words + "".join(
            f"\n### {label}\n\n{_table(one, 'framework.')}" for label, (one, _) in FRAMEWORKS.items()
        )
    text = f"## {name.removesuffix('.')}\n\n{_table(kind, name)}{_alike(name, kind)}"
    return text + "".join(f"\n{_section(inner, one)}" for inner, one in _groups(kind, name))


def _groups(kind: type, prefix: str = "") -> list[tuple[str, type]]:
    """The settings of a class that are classes of settings; of several of one class, as the views are, only the first."""
    found: dict[type, str] = {}
    for setting, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            found.setdefault(typing.cast(type, hint), f"{prefix}{setting}.")
    return [(name, one) for one, name in found.items()]


def _alike(name: str, kind: type) -> str:
    """Words for settings of the same class beside `name`, which have no table of their own."""
    *path, own = name.removesuffix(".").split(".")
    above: Any = RunConfig()
    for part in path:
        above = getattr(above, part)
    prefix = "".join(f"{part}." for part in path)
    first, lines = getattr(above, own), []
    for setting in dataclasses.fields(above):
        other = getattr(above, setting.name)
        if type(other) is kind and setting.name != own:
            changed = [
                f"`{one.name}` {getattr(other, one.name)}"
                for one in dataclasses.fields(other)
                if getattr(other, one.name) != getattr(first, one.name)
            ]
            differs = f", except {', '.join(changed)}" if changed else ""
            lines.append(f"`{prefix}{setting.name}.*` has the same settings and defaults{differs}.\n")
    return "".join(f"\n{line}" for line in lines)


def _table(kind: type, prefix: str) -> str:
    words, hints = _doc_lines(kind), typing.get_type_hints(kind)
    lines = ["| setting | default | |", "|---|---|---|"]
    for setting in dataclasses.fields(kind):
        if not dataclasses.is_dataclass(hint := hints[setting.name]):
            lines.append(f"| `{prefix}{setting.name}` | {_default(setting)} | {words[setting.name]}{_choices(hint)} |")
        elif prefix:
            lines.append(f"| `{prefix}{setting.name}.*` | | {words[setting.name]} |")
    return "\n".join(lines) + "\n"


def _default(setting: "dataclasses.Field[Any]") -> str:
    made = setting.default_factory
    value = setting.default if made is dataclasses.MISSING else made()
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value in (None, (), {}) else f"`{value}`"


def _choices(hint: Any) -> str:
    """Words for the values of a setting that takes only some."""
    if typing.get_origin(hint) is typing.Literal:
        return f" One of {', '.join(f'`{value}`' for value in typing.get_args(hint))}."
    return "".join(_choices(inner) for inner in typing.get_args(hint))


def _doc_lines(kind: type) -> dict[str, str]:
    """The string under each setting of a class and of those that it inherits from."""
    params = [param for one in reversed(kind.__mro__[:-1]) for param in parse_from_object(one).params]
    return {param.arg_name: " ".join((param.description or "").split()).replace("|", "\\|") for param in params}


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
