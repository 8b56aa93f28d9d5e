"""Formats numbers, times and settings for people."""

from typing import Any

from repre.reporting.run_data import RunData, finite_number

THIN_SPACE = "\u2009"


def format_number(value: Any, digits: int = 4) -> str:
    """Formats a number with `digits` significant digits and spaced thousands; a dash stands for no number."""
    number = finite_number(value)
    if number is None:
        return "–"
    if number and (abs(number) >= 1e7 or abs(number) < 1e-3):
        return f"{number:.{max(digits - 2, 1)}e}"
    if number == int(number) or abs(number) >= 10**digits:
        return f"{number:,.0f}".replace(",", THIN_SPACE)
    return f"{number:.{digits}g}"


def percent(value: Any) -> str:
    """Formats a share as a percentage with one decimal."""
    share = finite_number(value)
    return "–" if share is None else f"{100 * share:.1f}{THIN_SPACE}%"


def duration(value: Any) -> str:
    """Formats seconds as hours, minutes or seconds."""
    seconds = finite_number(value)
    if seconds is None:
        return "–"
    if seconds < 100:
        return f"{seconds:.1f}{THIN_SPACE}s" if seconds < 10 else f"{seconds:.0f}{THIN_SPACE}s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes}{THIN_SPACE}min"
    return f"{minutes // 60}{THIN_SPACE}h {minutes % 60}{THIN_SPACE}min"


def describe_run(run: RunData) -> str:
    """Describes in one line what was trained: encoder, framework, branch, data, epochs."""
    config = run.config
    parts = [str(config[key].get("name", "")) for key in ("encoder", "framework") if isinstance(config.get(key), dict)]
    branch = config.get("reconstruction")
    weight = finite_number(branch.get("weight")) if isinstance(branch, dict) else None
    if weight is not None:
        parts.append("reconstruction branch" if weight else "no reconstruction branch")
    if config.get("data"):
        parts.append("data " + "/".join(str(config["data"]).rstrip("/").replace("\\", "/").split("/")[-3:]))
    if finite_number(config.get("epochs")) is not None:
        parts.append(f"{config['epochs']} epochs")
    return ", ".join(part for part in parts if part)


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Flattens nested settings to texts by dotted name."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = "none" if value is None or value == [] else str(value)[:2000]
    return flat
