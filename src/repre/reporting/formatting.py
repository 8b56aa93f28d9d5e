"""Figures as people read them."""

from typing import Any

from repre.reporting.run_data import RunData, number

THIN = "\u2009"


def figure(value: Any, *, digits: int = 4) -> str:
    """A number to so many digits, thousands apart; a dash where there is none."""
    value = number(value)
    if value is None:
        return "–"
    if value and (abs(value) >= 1e7 or abs(value) < 1e-3):
        return f"{value:.{max(digits - 2, 1)}e}"
    if value == int(value) or abs(value) >= 10**digits:
        return f"{value:,.0f}".replace(",", THIN)
    return f"{value:.{digits}g}"


def share(value: Any, *, places: int = 1) -> str:
    """A share in per cent."""
    value = number(value)
    return "–" if value is None else f"{100 * value:.{places}f}{THIN}%"


def duration(seconds: Any) -> str:
    """Seconds as hours, minutes or seconds."""
    seconds = number(seconds)
    if seconds is None:
        return "–"
    if seconds < 100:
        return f"{seconds:.1f}{THIN}s" if seconds < 10 else f"{seconds:.0f}{THIN}s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes}{THIN}min"
    return f"{minutes // 60}{THIN}h {minutes % 60}{THIN}min"


def described(run: RunData) -> str:
    """One line about what was trained: encoder, framework, branch, data, length."""
    config = run.config
    words = [
        str(config.get(part, {}).get("name", "")) for part in ("encoder", "framework") if _is_dict(config.get(part))
    ]
    branch = config.get("reconstruction")
    weight = number(branch.get("weight")) if isinstance(branch, dict) else None
    if weight is not None:
        words.append("reconstruction branch" if weight else "no reconstruction branch")
    if config.get("data"):
        words.append("data " + "/".join(str(config["data"]).rstrip("/").replace("\\", "/").split("/")[-3:]))
    if number(config.get("epochs")) is not None:
        words.append(f"{config['epochs']} epochs")
    return ", ".join(word for word in words if word)


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Settings by dotted name, as text."""
    found: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = "none" if value is None or value == [] else str(value)[:2000]
    return found


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)
