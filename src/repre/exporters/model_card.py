"""Writes the model card: where the weights come from, how to load them, the training, the evaluations.

It contains no paths, images or file names of the user.
"""

import json
from pathlib import Path
from typing import Any

import yaml

from repre.config import RunConfig, load_yaml
from repre.exporters.card_results import result_table
from repre.frameworks import framework_name
from repre.models.encoder import Encoder
from repre.models.resolve import ResolvedEncoder
from repre.utils.image_size import as_text

USAGE = """## Use

```python
import timm

encoder = timm.create_model("hf-hub:YOU/NAME", pretrained=True).eval()  # or "local-dir:FOLDER"
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(encoder))  # resizes, crops, normalizes
images = transform(image)[None]  # [1, {channels}, {height}, {image_width}] of a PIL image
embedding = encoder(images)  # [1, {width}]
maps = encoder.forward_intermediates(images, intermediates_only=True)  # raw; norm=True: after the final norm
```

```python
from transformers import AutoModel

embedding = AutoModel.from_pretrained("YOU/NAME")(images).pooler_output
```
"""
EVALUATIONS = (
    "Measured on these weights with `repre eval`. Values are means over the seeds with their standard deviation; "
    "gains, at equal seeds, have their 95 % interval. Settings that are not named are the defaults."
)
REPRE = "after RePre ([arXiv 2201.06857](https://arxiv.org/abs/2201.06857)), which repre implements independently"


def model_card(encoder: Encoder, resolved: ResolvedEncoder) -> str:
    """Gives the card as Markdown with the header of the Hugging Face hub.

    Raises:
        UserError: the config.yaml of the run cannot be read.
    """
    run = _run_folder(resolved)
    config = load_yaml(run / "config.yaml") if run is not None else None
    title, origin = _origin(encoder.config.name, resolved, config)
    tags = ["image-feature-extraction", "timm", *(["self-supervised", "repre"] if config is not None else [])]
    height, width = encoder.image_size
    parts = [
        f"---\n{yaml.safe_dump({'library_name': 'timm', 'tags': tags}, sort_keys=False)}---",
        f"# {title}",
        origin,
        USAGE.format(width=encoder.embedding_dim, channels=encoder.config.channels, height=height, image_width=width),
    ]
    if run is not None and config is not None:
        parts.append(_training(config, _summary(run, resolved)))
    if table := result_table(resolved):
        parts.append("\n".join(["## Evaluations", "", EVALUATIONS, "", *table]))
    parts.append("## License\n\nState a license here before you publish the weights.")
    return "\n\n".join(parts) + "\n"


def _run_folder(resolved: ResolvedEncoder) -> Path | None:
    """Gives the run that trained the encoder; None where repre did not train it."""
    if resolved.folder is None or resolved.config.weights is None:
        return None
    folders = [resolved.folder, *([resolved.folder.parent] if resolved.folder.name == "encoder" else [])]
    return next((folder for folder in folders if (folder / "config.yaml").is_file()), None)


def _origin(name: str, resolved: ResolvedEncoder, config: RunConfig | None) -> tuple[str, str]:
    """Gives the title of the card, and a paragraph about where the weights come from."""
    if config is not None:
        start = {None: "random weights", "hub": "timm's published weights"}.get(config.encoder.weights, "other weights")
        if config.start_from is not None:
            start = "the state of another run of repre"
        method = framework_name(config.framework)
        if config.reconstruction.weight:
            method += f", and in parallel by reconstructing pixels from several of its levels, {REPRE}"
        return f"{name}, pre-trained with repre", (
            f"An image encoder without a classifier, pre-trained without labels from {start} by {method}."
        )
    if resolved.config.weights is None:
        return f"{name}, not trained", "An image encoder with random weights, a baseline for trained ones."
    if resolved.config.weights == "hub":
        return f"{name}, weights of timm", (
            f"The weights that timm publishes for `{name}`, without their classifier. repre exported them and did not "
            "train them; see timm for their training and license."
        )
    return (
        name,
        "An image encoder without a classifier. repre exported its weights; how they were trained is not recorded.",
    )


def _summary(run: Path, resolved: ResolvedEncoder) -> dict[str, Any]:
    """Gives the summary of the run if these are its final weights, not those of a checkpoint."""
    weights, path = Path(str(resolved.config.weights)), run / "summary.json"
    if not path.is_file() or weights.resolve() != (run / "encoder").resolve():
        return {}
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return summary


def _training(config: RunConfig, summary: dict[str, Any]) -> str:
    weight, views = config.reconstruction.weight, config.views
    rows = {
        "framework": framework_name(config.framework),
        "reconstruction weight": weight or "0: no branch",
        "views": f"{as_text(views.size)} px" + (f" and {views.n_local} local" if views.n_local else ""),
        "epochs": config.epochs,
        "images per step": config.batch_size,
        "learning rate": f"{config.optim.lr:g} per {config.optim.base_batch_size} images",
        "weight decay": config.optim.weight_decay,
    }
    if summary:
        rows |= {"steps": summary["steps"], "images seen": summary["images"]}
    else:
        rows["weights"] = "of a checkpoint, possibly before the last epoch"
    data = "the generated scenes of repre" if config.embedded_scenes else "own images, not published"
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"## Training\n\nData: {data}.\n\n| setting | value |\n|---|---|\n{table}"
