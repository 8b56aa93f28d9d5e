"""Reads the config of a training record, also one that was written when settings had other names or defaults."""

from typing import Any

from repre.config import RunConfig
from repre.config_values import from_dict


def recorded_run(config: dict[str, Any]) -> RunConfig:
    """Returns the config of a pre-training from plain values.

    Older records have `views.mask_ratio` and `views.mask_patch` instead of `views.mask`: masks were random, of one ratio,
    and hidden patches got the mean color. Their `compute.compile` is off, which was the default; `auto`, today's, does not
    compile on processors either, and compiling changes weights by rounding only.
    """
    parts = {name: dict(value) if isinstance(value, dict) else value for name, value in config.items()}
    views, compute = parts["views"], parts["compute"]
    if "mask_ratio" in views:
        ratio, patch = views.pop("mask_ratio"), views.pop("mask_patch")
        if ratio:
            views["mask"] = {"kind": "random", "ratio": [ratio, ratio], "patch": patch}
            parts["reconstruction"]["masked_input"] = "pixels"
    if compute["compile"] in ("off", False):
        del compute["compile"]
    return from_dict(RunConfig, parts, source="training record")
