"""Settings that had another name, and the message for one that does not exist."""

from collections.abc import Iterable

from repre.errors import near_names

RENAMED = {
    "optim.lr_batch": "optim.base_batch_size",
    "optim.lr_end": "optim.min_lr",
    "optim.clip": "optim.clip_grad_norm",
    "optim.warmup": "optim.warmup_fraction",
    "fit.clip": "fit.clip_grad_norm",
    "fit.warmup": "fit.warmup_fraction",
    "reconstruction.until": "reconstruction.end_fraction",
    "encoder.levels": "encoder.out_indices",
    "framework.hidden": "framework.hidden_dim",
    "framework.out": "framework.out_dim",
    "framework.bottleneck": "framework.bottleneck_dim",
    "framework.norm_prototypes": "framework.norm_last_layer",
    "framework.freeze_prototypes": "framework.freeze_last_layer",
    "framework.centre_momentum": "framework.center_momentum",
    "decoder.width": "decoder.dim",
    "loader.canvas": "loader.decode_size",
    "runtime.check_every": "runtime.eval_every_epochs",
    "runtime.monitor_images": "runtime.monitor_samples",
    "views.first.grey": "views.first.grayscale",
    "views.second.grey": "views.second.grayscale",
    "views.local.grey": "views.local.grayscale",
    "views.first.solarise": "views.first.solarize",
    "views.second.solarise": "views.second.solarize",
    "views.local.solarise": "views.local.solarize",
    "views.mask_ratio": "views.mask.ratio",
    "views.mask_patch": "views.mask.patch",
    "view.grey": "view.grayscale",
    "view.solarise": "view.solarize",
}
"""Settings that had another name before the first release, answered by their new one."""
REMOVED = {
    "optim.kind": "AdamW is the only optimizer",
    "enlarge": "crop_pct is its inverse: 224 / 256 instead of 256 / 224",
}
"""Settings that are gone, with what to know instead."""


def unknown_setting(name: str, known: Iterable[str]) -> str:
    """The message for a setting that does not exist: its new name, why it is gone, or names like it.

    Args:
        name: with its section, such as ``optim.clip``.
        known: names of the settings that exist in that section, without it.
    """
    if name in RENAMED:
        return f"{name} is now called {RENAMED[name]}"
    if name in REMOVED:
        return f"{name} no longer exists: {REMOVED[name]}"
    return f"{name}: no such setting{near_names(name.rpartition('.')[2], known)}"
