"""The model card: what was trained on how much, what it reached, how to load it. No paths, no images, no names of files."""

import json
from pathlib import Path
from typing import Any

import yaml

from repre.models.encoder import Encoder
from repre.models.resolve import ResolvedEncoder

LOADING = """## Use

```python
import timm

encoder = timm.create_model("hf-hub:YOU/NAME", pretrained=True)  # or "local-dir:FOLDER"
embedding = encoder(images)  # [B, {width}], images [B, {channels}, {height}, {width_px}] normalized as config.json says
maps = encoder.forward_intermediates(images, intermediates_only=True)
```

```python
from transformers import AutoModel

embedding = AutoModel.from_pretrained("YOU/NAME")(images).pooler_output
```
"""


def model_card(encoder: Encoder, start: ResolvedEncoder) -> str:
    """Markdown with the hub's header."""
    header = {"library_name": "timm", "tags": ["image-feature-extraction", "self-supervised", "repre", "timm"]}
    run = start.folder
    config = _read(run, "config.yaml")
    summary = _read(run, "summary.json")
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# {encoder.config.name}, pre-trained with repre",
        "An image encoder without a classifier, pre-trained without labels: a contrastive framework, and in parallel a "
        "light convolutional decoder that rebuilds the pixels from several depths of the encoder, after RePre "
        "([arXiv 2201.06857](https://arxiv.org/abs/2201.06857)). repre is an independent implementation.",
        LOADING.format(
            width=encoder.embedding_dim,
            channels=encoder.config.channels,
            height=encoder.image_size[0],
            width_px=encoder.image_size[1],
        ),
    ]
    if config:
        parts.append(_recipe(config, summary))
    if figures := _evaluations(run):
        parts.append("## Evaluations\n\n| evaluation | figure | value |\n|---|---|---|\n" + "\n".join(figures))
    parts.append("## License\n\nThe weights belong to who trained them. State a license here before you publish them.")
    return "\n\n".join(parts) + "\n"


def _recipe(config: dict[str, Any], summary: dict[str, Any]) -> str:
    weight = config["reconstruction"]["weight"]
    rows = {
        "framework": config["framework"]["name"],
        "reconstruction weight": weight if weight else "0: no branch",
        "views": f"{config['views']['size']} px"
        + (f" and {config['views']['n_local']} local" if config["views"]["n_local"] else ""),
        "epochs": config["epochs"],
        "images per step": config["batch_size"],
        "learning rate": f"{config['optim']['lr']:g} per {config['optim']['base_batch_size']} images",
        "weight decay": config["optim"]["weight_decay"],
    }
    if summary:
        rows |= {"steps": summary["steps"], "images seen": summary["images"]}
    data = (
        "the embedded scenes of repre" if str(config["data"]).split(":")[0] == "scenes" else "own images, not published"
    )
    lines = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"## Training\n\nData: {data}.\n\n| setting | value |\n|---|---|\n{lines}"


def _evaluations(run: Path | None) -> list[str]:
    """Lines of the table of what `repre eval` stored beside the encoder; only the main figures."""
    found = []
    for path in sorted((run / "evaluations").glob("*.json")) if run is not None else []:
        one = json.loads(path.read_text(encoding="utf-8"))
        found.append(f"| {one['evaluation']} | {one['main']} | {100 * one['metrics'][one['main']]:.1f} % |")
    return found


def _read(run: Path | None, name: str) -> dict[str, Any]:
    if run is None or not (run / name).is_file():
        return {}
    content = yaml.safe_load((run / name).read_text(encoding="utf-8"))  # JSON is YAML
    return content if isinstance(content, dict) else {}
