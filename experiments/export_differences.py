"""Measures how exact every export is: the table of docs/export.md for a ViT, a Swin and a ConvNeXt.

    python -m experiments.export_differences                     # a few minutes on two cores
    python -m experiments.export_differences --out table.md

Each export is loaded by the library it is for. A cell is the largest difference of a feature divided by the largest
feature, for batches of two and of five images of random pixels; weights are random with seed 0. If
segmentation_models_pytorch is installed, its column compares the feature maps that its encoder passes to a decoder.
"""

import argparse
import importlib.metadata
import importlib.util
import platform
import tempfile
from pathlib import Path

import torch

from repre.exporters import TARGETS, export
from repre.models.encoder import Encoder, EncoderConfig
from repre.models.timm_folder import load_saved_encoder, save_encoder

MODELS = {"ViT": "vit_small_patch16_224", "Swin": "swin_tiny_patch4_window7_224", "ConvNeXt": "convnext_tiny"}
LIBRARIES = ("torch", "timm", "transformers", "onnx", "onnxscript", "onnxruntime", "segmentation_models_pytorch")
SMP = "segmentation_models_pytorch"


@torch.no_grad()
def smp_difference(folder: Path) -> float:
    """Compares the feature maps of a saved encoder in segmentation_models_pytorch with repre's."""
    import segmentation_models_pytorch as smp

    encoder = load_saved_encoder(folder).eval()
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    expected = encoder(images).maps
    name = f"tu-local-dir:{folder}"
    if len(set(encoder.strides)) == 1:
        model = smp.DPT(name, encoder_weights=True, encoder_output_indices=encoder.out_indices).eval()
        actual = model.encoder(images)[0]
    else:
        actual = smp.Unet(name, encoder_weights=True).eval().encoder(images)[2:]  # after the image and an empty map
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(expected, actual, strict=True))


def table(models: dict[str, EncoderConfig]) -> str:
    """Returns the table in Markdown, followed by the versions of all libraries.

    Args:
        models: encoders by name.
    """
    smp = [SMP] if importlib.util.find_spec(SMP) is not None else []
    columns = [*TARGETS, *("smp" for _ in smp)]
    lines = ["| encoder | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for name, config in models.items():
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "encoder"
            torch.manual_seed(0)
            save_encoder(Encoder(config), folder)
            differences = [
                export(str(folder), to=target, out=Path(temporary) / target).difference for target in TARGETS
            ]
            differences += [smp_difference(folder) for _ in smp]
        cells = ("0" if difference == 0 else f"{difference:.1e}" for difference in differences)
        lines.append(f"| {name} `{config.name}` | " + " | ".join(cells) + " |")
    limits = (f"{TARGETS[name].tolerance:.0e}" if name in TARGETS else "" for name in columns)
    lines.append("| refused above | " + " | ".join(limits) + " |")
    return "\n".join(lines) + f"\n\n{_versions()}; fp32 on the CPU.\n"


def _versions() -> str:
    installed = [library for library in LIBRARIES if importlib.util.find_spec(library) is not None]
    versions = [f"{library} {importlib.metadata.version(library)}" for library in installed]
    return ", ".join([f"Python {platform.python_version()}", *versions])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="Markdown file; by default the table is printed")
    out = parser.parse_args().out
    text = table({name: EncoderConfig(name=model) for name, model in MODELS.items()})
    if out is None:
        print(text)
    else:
        out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
