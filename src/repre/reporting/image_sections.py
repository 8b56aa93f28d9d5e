"""Builds the sections with images: reconstruction over time and by level, patch features, similarity, neighbors.

Sections that also appear on the page of several runs take a sequence; there every run has its own heading.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from repre.reporting.formatting import format_number
from repre.reporting.image_encoding import encode_patches, read_panels
from repre.reporting.rendering import PageData, Section, section
from repre.reporting.run_data import RunData, finite_number

NO_SNAPSHOTS = "snapshots/features.npz does not have them. A run writes it at its end."
MAX_IMAGES_COMPARED = 6
"""Images per run with a similarity map on the page of several runs."""
RANDOM_HUE = 0.3
"""Hue jitter from which on a view says little about the original color; 0.5 is any hue."""


def reconstruction_section(runs: Sequence[RunData], page: PageData) -> Section | None:
    """Shows the fixed images and their reconstructions with a slider over the steps."""
    films = [_film(run, page, f"panel-{index}") for index, run in enumerate(runs)]
    if not any(films):
        page.left_out.append("Reconstruction over time: there are no panels, or the run has no reconstruction branch.")
        return None
    lead = "The same images at every validation: above what the encoder saw, below what the decoder reconstructed."
    if gray := [run.name for run in runs if hides_color(run)]:
        which = "The reconstructions" if len(runs) == 1 else f"Those of {', '.join(gray)}"
        lead += f" {which} are gray on purpose: training views have random hues, so the encoder learns to ignore color."
    return section("reconstruction", "Reconstruction over time", lead, runs=runs, films=films)


def hides_color(run: RunData) -> bool:
    """Whether the branch must rebuild colors that most of its views do not show: a clean target, a random hue."""
    views, branch = run.config.get("views"), run.config.get("reconstruction")
    if not isinstance(views, dict) or views.get("target") != "clean":
        return False
    only_first = isinstance(branch, dict) and branch.get("views") == "first"
    rebuilt = [views.get(name) for name in ("first", "second")[: 1 if only_first else 2]]
    return all(
        isinstance(view, dict)
        and (finite_number(view.get("jitter")) or 0.0) > 0.5
        and (finite_number(view.get("hue")) or 0.0) >= RANDOM_HUE
        for view in rebuilt
    )


def _film(run: RunData, page: PageData, prefix: str) -> dict[str, Any] | None:
    panels = read_panels(run, max_count=page.quality.max_panels)
    if panels is None:
        return None
    originals = [page.album.add(f"{prefix}/image/{i}", image) for i, image in enumerate(panels.originals)]
    frames = [
        [page.album.add(f"{prefix}/{step}/{i}", image) for i, image in enumerate(images)]
        for step, images in panels.rebuilt.items()
    ]
    captions = [f"step {format_number(step)}, PSNR {psnr:.1f} dB" for step, psnr in panels.psnr.items()]
    page.films.append({"frames": frames, "captions": captions})
    return {"index": len(page.films) - 1, "pairs": list(zip(originals, frames[-1])), "captions": captions}


# -------------------------------------------------------------------------------------------- from the snapshots


def _with_age(runs: Sequence[RunData], lead: str) -> str:
    """Adds to a section's lead which pictures are not those of a finished run."""
    notes = []
    for run in runs:
        steps = [row["step"] for row in run.validations]
        if run.summary is None and run.arrays:
            before = not steps or steps[-1] == 0
            when = "before training" if before else f"from step {steps[-1]:.0f} or earlier"
            notes.append(f"{run.name if len(runs) > 1 else 'The run'} is not finished: its pictures are {when}.")
    return " ".join([lead, *notes])


def _add_images(run: RunData, page: PageData, name: str, prefix: str) -> list[str]:
    """Adds the first images of an array to the album; gives their keys."""
    images = run.arrays.get(name, ())[: page.quality.max_images]
    lossless = name.startswith("pca")
    return [page.album.add(f"{prefix}/{name}/{i}", image, lossless=lossless) for i, image in enumerate(images)]


def _level(name: str) -> int:
    """Gives the level of an array's name, counted from 1."""
    return int(name.rpartition("_")[2]) + 1


def _level_names(run: RunData, kind: str) -> list[str]:
    """Lists the arrays of a kind (rebuilt, pca) by level, shallow first."""
    names = [name for name in run.arrays if name.startswith(f"{kind}_level_") and name.rpartition("_")[2].isdecimal()]
    return sorted(names, key=_level)


def levels_section(run: RunData, page: PageData) -> Section | None:
    """Shows what is reconstructed from all levels, and from each alone."""
    names = [name for name in ("images", "rebuilt", *_level_names(run, "rebuilt")) if name in run.arrays]
    if len(names) < 2 or not page.quality.max_images:
        page.left_out.append(f"Reconstruction by level: {NO_SNAPSHOTS}")
        return None
    titles = {"images": ("Image", ""), "rebuilt": ("All levels", "")}
    rows = []
    for name in names:
        title, remark = titles.get(name) or (f"Level {_level(name)}", "alone")
        rows.append({"title": title, "remark": remark, "keys": _add_images(run, page, name, "run-0"), "below": None})
    lead = (
        "Reconstructions from all levels, and from each level alone with the others set to their mean. Details that appear "
        "in one row only come from that level; a gray row contributes little."
    )
    return section("levels", "Reconstruction by level", _with_age([run], lead), rows=rows)


def colors_section(runs: Sequence[RunData], page: PageData) -> Section | None:
    """Shows patch features as colors: of every level for one run, of the last level for several."""
    tables = []
    for index, run in enumerate(runs):
        names = _level_names(run, "pca")
        tables.append(_color_rows(run, page, f"run-{index}", names if len(runs) == 1 else names[-1:]))
    if not any(tables):
        page.left_out.append(f"Patch features as colors: {NO_SNAPSHOTS}")
        return None
    lead = (
        "The first three principal components of the patch features as red, green and blue. Patches of one color have "
        "similar features, also across images"
        + ("." if len(runs) == 1 else "; colors of different runs are unrelated.")
    )
    return section("colors", "Patch features as colors", _with_age(runs, lead), runs=runs, tables=tables)


def _color_rows(run: RunData, page: PageData, prefix: str, names: list[str]) -> list[dict[str, Any]]:
    """Gives rows of images: the images themselves, then the colors of every level over them."""
    if not names or not page.quality.max_images:
        return []
    images = _add_images(run, page, "images", prefix)
    rows = [{"title": "Image", "remark": "", "keys": images, "below": None}] if images else []
    for name in names:
        height, width = run.arrays[name].shape[1:3]
        title, keys = f"Level {_level(name)}", _add_images(run, page, name, prefix)
        rows.append({"title": title, "remark": f"{height} × {width}", "keys": keys, "below": images})
    return rows


def similarity_section(runs: Sequence[RunData], page: PageData) -> Section | None:
    """Shows images in which the reader selects a patch; the script computes the similarities."""
    groups = [_similarity_maps(run, page, f"run-{index}", several=len(runs) > 1) for index, run in enumerate(runs)]
    if not any(groups):
        page.left_out.append(f"Similarity maps: {NO_SNAPSHOTS}")
        return None
    lead = (
        "Click a patch, or focus an image and use the arrow keys. Bright patches are similar to the selected one, and rings "
        "mark the best match in each image. The similarity is the cosine of the last level's patch features on their first "
        "principal components."
    )
    if len(runs) > 1:
        lead = f"{lead} All runs use the same patch."
    return section("similarity", "Patch similarity", _with_age(runs, lead), runs=runs, groups=groups)


def _similarity_maps(run: RunData, page: PageData, prefix: str, *, several: bool) -> dict[str, Any] | None:
    patches, images = run.arrays.get("patches"), run.arrays.get("images")
    if patches is None or images is None or not page.quality.max_images:
        return None
    keys = _add_images(run, page, "images", prefix)[: MAX_IMAGES_COMPARED if several else None]
    page.patches.append(encode_patches(patches[: len(keys)], max_patches=page.quality.max_patches))
    return {"index": len(page.patches) - 1, "keys": keys}


def neighbors_section(run: RunData, page: PageData) -> Section | None:
    """Shows every image with the images whose embeddings are nearest."""
    images, cosines = run.arrays.get("neighbor_images"), run.arrays.get("neighbor_cosines")
    queries = _add_images(run, page, "images", "run-0")
    if images is None or not queries:
        page.left_out.append(f"Nearest neighbors: {NO_SNAPSHOTS}")
        return None
    if cosines is None or cosines.shape != images.shape[:2]:
        cosines = np.full(images.shape[:2], np.nan)
    rows = []
    for i, query in enumerate(queries):
        neighbors = [
            {"key": page.album.add(f"neighbor/{i}/{k}", images[i, k]),
             "caption": f"{cosines[i, k]:.2f}" if np.isfinite(cosines[i, k]) else f"{k + 1}"}
            for k in range(images.shape[1])
        ]  # fmt: skip
        rows.append({"query": query, "neighbors": neighbors})
    lead = "For each image, the sampled images with the nearest embeddings and their cosine similarity."
    return section("neighbors", "Nearest neighbors", _with_age([run], lead), rows=rows)
