"""The sections that show pictures: reconstruction over time, levels, patch features as colors, similarity, neighbors."""

import numpy as np

from repre.reporting.formatting import figure
from repre.reporting.rendering import Child, Html, tag
from repre.reporting.parts import Page, Section, matrix, picture, section, slider
from repre.reporting.image_encoding import patches_as_text, read_panels
from repre.reporting.run_data import RunData

NO_SNAPSHOTS = "snapshots/features.npz is missing or lacks them (an unfinished run, or one of an older version)."


def reconstruction(run: RunData, page: Page) -> Section | None:
    shown = film(run, page, "panel")
    if shown is None:
        page.missing.append("Reconstruction over time: the run has no panels, or no branch.")
        return None
    lead = (
        "The same images at every check: what the encoder saw above, what the decoder rebuilt from its features below."
    )
    return section("reconstruction", "Reconstruction over time", lead, shown)


def film(run: RunData, page: Page, prefix: str) -> Html | None:
    """The panel of a run with a slider over its steps; None without one."""
    panels = read_panels(run, most=page.quality.panels)
    if panels is None:
        return None
    album, steps = page.album, list(panels.rebuilt)
    above = [album.photo(f"{prefix}/image/{i}", cell) for i, cell in enumerate(panels.originals)]
    frames = [
        [album.photo(f"{prefix}/{step}/{i}", cell) for i, cell in enumerate(panels.rebuilt[step])] for step in steps
    ]
    words = [f"step {figure(step)}, PSNR {panels.psnr[step]:.1f} dB" for step in steps]
    page.films.append({"frames": frames, "words": words})
    cells = [
        tag("figure", None, picture(above[i], f"image {i + 1}"), picture(frames[-1][i], f"image {i + 1}, rebuilt"))
        for i in range(len(above))
    ]
    play = tag("button", {"type": "button", "data-play": True, "aria-pressed": "false"}, "Play")
    move = slider("Step", {"min": 0, "max": len(steps) - 1, "step": 1, "value": len(steps) - 1, "data-frame": True})
    tools = tag("div", {"class": "tools"}, play, move) if len(steps) > 1 else tag("p", None, words[0])
    return tag("div", {"class": "film", "data-film": len(page.films) - 1}, tools, tag("div", {"class": "pairs"}, cells))


# ------------------------------------------------------------------------------------------------ of the snapshots


def photos(run: RunData, page: Page, name: str, prefix: str) -> list[str]:
    """Adds the first pictures of an array to the album; their names."""
    array = run.arrays.get(name)
    if array is None:
        return []
    add = page.album.exact if name.startswith("pca") else page.album.photo
    return [add(f"{prefix}/{name}/{i}", array[i]) for i in range(min(len(array), page.quality.images))]


def levels_of(run: RunData, kind: str) -> list[str]:
    """Names of the arrays of a kind, shallow levels first."""
    found = [name for name in run.arrays if name.startswith(f"{kind}_level_") and name.rpartition("_")[2].isdecimal()]
    return sorted(found, key=lambda name: int(name.rpartition("_")[2]))


def levels(run: RunData, page: Page) -> Section | None:
    names = [name for name in ("images", "rebuilt", *levels_of(run, "rebuilt")) if name in run.arrays]
    if len(names) < 2 or not page.quality.images:
        page.missing.append(f"Reconstruction by level: {NO_SNAPSHOTS}")
        return None
    titles = {"images": ("Image", ""), "rebuilt": ("Rebuilt", "all levels")}
    rows = []
    for name in names:
        title, remark = titles.get(name) or (f"Level {int(name.rpartition('_')[2]) + 1}", "alone")
        cells = [
            picture(p, f"image {i + 1}, {title} {remark}".strip()) for i, p in enumerate(photos(run, page, name, "run"))
        ]
        rows.append((title, remark, cells))
    lead = (
        "Rebuilt from all levels, and from each alone with the others set to their mean. What only one row shows, only "
        "that level carries; a gray row adds little to the pixels."
    )
    return section("levels", "Reconstruction by level", lead, matrix(rows, "Reconstructions by level"))


def colors(run: RunData, page: Page) -> Section | None:
    shown = color_rows(run, page, "run", levels_of(run, "pca"))
    if shown is None:
        page.missing.append(f"Patch features as colors: {NO_SNAPSHOTS}")
        return None
    lead = (
        "The three first principal components of the patch features over all these images, as red, green and blue. "
        "The same color in two images means that the encoder takes those places for alike."
    )
    mix = slider("Colors over the image", {"min": 0, "max": 100, "step": 5, "value": 100, "data-mix": True})
    return section("colors", "Patch features as colors", lead, tag("div", {"class": "tools"}, mix), shown)


def color_rows(run: RunData, page: Page, prefix: str, names: list[str]) -> Html | None:
    """Images above their patch features as colors, one row per level; None without them."""
    if not names or not page.quality.images:
        return None
    below = photos(run, page, "images", prefix)
    plain: list[Child] = [picture(name, f"image {i + 1}") for i, name in enumerate(below)]
    rows: list[tuple[str, str, list[Child]]] = [("Image", "", plain)] if plain else []
    for name in names:
        level, grid = int(name.rpartition("_")[2]) + 1, run.arrays[name].shape[1:3]
        cells: list[Child] = []
        for i, shown in enumerate(photos(run, page, name, prefix)):
            base = picture(below[i], "") if below else None
            cells.append(
                tag("div", {"class": "mixed"}, base, picture(shown, f"image {i + 1}, level {level}", pixelated=True))
            )
        rows.append((f"Level {level}", f"{grid[0]} × {grid[1]}", cells))
    return matrix(rows, "Patch features as colors")


def similarity(run: RunData, page: Page) -> Section | None:
    shown = maps(run, page, "run", label="this run")
    if shown is None:
        page.missing.append(f"Similarity maps: {NO_SNAPSHOTS}")
        return None
    lead = (
        "Choose a patch by a click, or focus an image and use the arrow keys: bright places in all images resemble "
        "it, and rings mark the best match in each. Cosine of the last level's patch features "
        "on their first principal components."
    )
    return section("similarity", "What resembles this patch?", lead, map_tools(), shown)


def map_tools() -> Html:
    strength = slider("Strength", {"min": 0, "max": 100, "step": 5, "value": 90, "data-strength": True})
    smooth = tag("label", {"class": "check"}, tag("input", {"type": "checkbox", "data-smooth": True}), "Smooth")
    return tag("div", {"class": "tools"}, strength, smooth)


def maps(run: RunData, page: Page, prefix: str, *, label: str, most: int = 12) -> Html | None:
    """Images on which one chooses a patch; the script computes the similarities from the quantized features."""
    patches, images = run.arrays.get("patches"), run.arrays.get("images")
    if patches is None or images is None or not page.quality.images:
        return None
    few = photos(run, page, "images", prefix)[:most]
    page.patches.append(patches_as_text(patches[: len(few)], cells=page.quality.cells))
    cells = [
        tag(
            "div",
            {"class": "map", "tabindex": 0, "role": "application", "data-image": i,
             "aria-label": f"Image {i + 1}: choose a patch with the arrow keys"},
            picture(name, f"image {i + 1}"),
            tag("canvas", {"aria-hidden": "true"}),
        )
        for i, name in enumerate(few)
    ]  # fmt: skip
    legend = tag("canvas", {"class": "legend", "width": 128, "height": 1, "aria-hidden": "true"})
    read = tag("p", {"class": "readout", "role": "status"}, "No patch is chosen.")
    scale = tag("p", {"class": "scale"}, tag("span", {"data-low": True}), legend, tag("span", {"data-high": True}))
    return tag("div", {"class": "similarity", "data-patches": len(page.patches) - 1, "aria-label": label, "role": "group"},
               tag("div", {"class": "reading"}, read, scale), tag("div", {"class": "maps"}, cells))  # fmt: skip


def neighbors(run: RunData, page: Page) -> Section | None:
    pictures, cosines = run.arrays.get("neighbor_images"), run.arrays.get("neighbor_cosines")
    images = photos(run, page, "images", "run")
    if pictures is None or not images:
        page.missing.append(f"Nearest neighbors: {NO_SNAPSHOTS}")
        return None
    rows = []
    for i, name in enumerate(images):
        cells: list[Child] = [
            tag("figure", {"class": "asked"}, picture(name, f"image {i + 1}"), tag("figcaption", None, "image"))
        ]
        for k in range(pictures.shape[1]):
            shown = page.album.photo(f"neighbor/{i}/{k}", pictures[i, k])
            value = cosines[i, k] if cosines is not None and cosines.shape == pictures.shape[:2] else np.nan
            said = f"{value:.2f}" if np.isfinite(value) else f"{k + 1}"
            cells.append(
                tag("figure", None, picture(shown, f"neighbor {k + 1} of image {i + 1}"), tag("figcaption", None, said))
            )
        rows.append(tag("div", {"class": "row"}, cells))
    lead = "The images of the monitors' sample whose embeddings are nearest to that of the first, with their cosine."
    return section("neighbors", "Nearest neighbors", lead, tag("div", {"class": "neighbors"}, rows))
