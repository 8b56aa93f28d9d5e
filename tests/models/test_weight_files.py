"""One name stands for the same weights wherever it is given, and files that hold no weights are refused with the reason."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

import repre
from repre.config import RunConfig, dump_yaml
from repre.config_values import to_dict
from repre.data.views.view_recipes import ViewsConfig
from repre.errors import UserError
from repre.models.decoder import DecoderConfig
from repre.models.encoder import Encoder, EncoderConfig
from repre.models.repre import RePre, build_model
from repre.models.resolve import resolve_encoder
from repre.models.timm_folder import save_encoder
from repre.models.weight_files import exported_part, read_weights, statistics_of
from repre.models.weights import load_start_weights
from repre.training.checkpoint import save_checkpoint
from repre.training.run_state import RunState
from repre.training.start_weights import with_statistics
from repre.utils.safe_load import content_hash
from tests import tiny

pytestmark = pytest.mark.usefixtures("one_thread")

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
SPECS = ("", "/checkpoints/last.pt", "/checkpoints/best.pt", "@best", "@last", "/encoder", "/encoder/model.safetensors")
VIT = "vit_tiny_patch16_224[image_size=32,patch_size=8,embed_dim=32,depth=4,num_heads=2]"
CPU = {"device": "cpu", "workers": 0}


def perturb(model: nn.Module) -> None:
    """Moves every parameter, so that teacher and student differ."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))


def write_run(folder: Path, framework: str, encoder: str, *, finished: bool = True) -> tuple[RePre, RunConfig]:
    """A run with both checkpoints, and with its encoder if it is finished."""
    config = RunConfig(
        encoder=replace(tiny.ENCODERS[encoder], image_size=None),
        framework=tiny.FRAMEWORKS[framework],
        decoder=DecoderConfig(dim=16),
        views=ViewsConfig(size=tiny.SIDES[encoder], mean=MEAN, std=STD, mask=tiny.mask_config(framework, encoder)),
    )
    model = build_model(
        encoder=config.encoder_at_size,
        framework=config.framework,
        decoder=config.decoder,
        reconstruction=config.reconstruction,
        seed=3,
        mask_token=config.mask_token,
    )
    perturb(model)
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_yaml(config), encoding="utf-8")
    whole = {"config": to_dict(config), "model": model.state_dict(), "step": 1, "exported": model.exported_part}
    save_checkpoint(folder / "checkpoints" / "last.pt", whole)
    save_checkpoint(folder / "checkpoints" / "best.pt", {"step": 1, "encoder": model.export_encoder.state_dict()})
    if finished:
        save_encoder(model.export_encoder, folder / "encoder", mean=list(MEAN), std=list(STD))
    return model, config


def hash_of(encoder: Any) -> str:
    return content_hash(encoder.model.state_dict())


@pytest.fixture
def folder_of_images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 255, (40 + 8 * index, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


@pytest.mark.parametrize("encoder", ["vit", "swin"])
@pytest.mark.parametrize("framework", ["dino", "moco-v3", "simclr"])
def test_one_name_is_one_encoder_in_every_command(framework: str, encoder: str, tmp_path: Path) -> None:
    """Start weights of `pretrain`, and what `eval`, `embed`, `export` and `load_encoder` resolve."""
    model, config = write_run(tmp_path / "run", framework, encoder)
    wanted = hash_of(model.export_encoder)
    assert (wanted != hash_of(model.encoder)) == (framework == "dino")
    start = Encoder(config.encoder_at_size)
    for spec in (f"{tmp_path / 'run'}{ending}" for ending in SPECS):
        resolved = resolve_encoder(spec)
        load_start_weights(start.model, str(resolved.config.weights), name=config.encoder.name)
        assert hash_of(start) == wanted, spec
        perturb(start)
        assert (resolved.mean, resolved.std) == (pytest.approx(MEAN), pytest.approx(STD))
        assert resolved.which == ("the teacher's" if framework == "dino" else "the student's")
        report = load_start_weights(start.model, spec, name=config.encoder.name)
        assert hash_of(start) == wanted, spec
        assert report.which == resolved.which
        perturb(start)
        assert statistics_of(spec, config.encoder.name)[0].mean == pytest.approx(MEAN)


def test_a_whole_command_takes_the_weights_that_a_name_stands_for(tmp_path: Path, folder_of_images: Path) -> None:
    """`pretrain` starts from, `export` writes and `embed` uses what `repre.load_encoder` gives, for an unfinished run."""
    model, config = write_run(tmp_path / "run", "dino", "vit", finished=False)
    spec, wanted = str(tmp_path / "run"), hash_of(model.export_encoder)
    state = RunState(replace(config, encoder=replace(config.encoder, weights=spec)), torch.device("cpu"))
    assert hash_of(state.model.encoder) == wanted
    assert state.start_weights is not None
    assert "the teacher's weights" in state.start_weights
    assert "54 tensors loaded, 0 missing, 0 unused" in state.start_weights
    exported = repre.export(spec, out=tmp_path / "exported")
    assert hash_of(repre.load_encoder(exported.path)) == wanted
    features = repre.embed(spec, data=folder_of_images, out=tmp_path / "features.npz", runtime=CPU)
    encoder = repre.load_encoder(spec)
    images = encoder.transform()(sorted(folder_of_images.iterdir()))
    with torch.no_grad():
        embedding = encoder(images).embedding
    stored = torch.from_numpy(np.load(features.path)["features"])
    assert torch.nn.functional.cosine_similarity(embedding, stored).min() > 1 - 1e-6
    assert torch.allclose(embedding, stored, atol=1e-5)


@pytest.mark.parametrize("framework", tiny.FRAMEWORKS)
def test_older_checkpoints_export_what_their_framework_does(framework: str) -> None:
    """They do not say which encoder their run exports."""
    model = tiny.tiny_model(framework, "vit")
    older = {"config": {"framework": to_dict(tiny.FRAMEWORKS[framework])}}
    assert exported_part(older) == model.exported_part


def test_what_a_checkpoint_says_about_its_encoder_counts(tmp_path: Path) -> None:
    """An extension may export another part of its model."""
    model, config = write_run(tmp_path / "run", "moco-v3", "vit")
    last = tmp_path / "run" / "checkpoints" / "last.pt"
    content = {"config": to_dict(config), "model": model.state_dict(), "exported": "framework.teacher.encoder"}
    save_checkpoint(last, content)
    teacher = next(m for m in model.framework.modules() if isinstance(m, Encoder))
    assert hash_of(Encoder(replace(config.encoder_at_size, weights=str(last)))) == hash_of(teacher)


def test_a_damaged_checkpoint_of_repre_is_no_start(tmp_path: Path) -> None:
    write_run(tmp_path / "run", "simclr", "vit")
    path = tmp_path / "run" / "checkpoints" / "best.pt"
    content = torch.load(path, weights_only=True)
    content["encoder"]["model.norm.weight"] += 1
    torch.save(content, path)
    with pytest.raises(UserError, match="its content does not match its hash"):
        read_weights(path)


def test_weights_of_a_run_with_another_architecture_name_its_options(tmp_path: Path) -> None:
    write_run(tmp_path / "run", "simclr", "vit", finished=False)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.yaml").write_text(dump_yaml(RunConfig()))
    options = "--encoder.name vit_tiny_patch16_224 --encoder.patch-size 8 --encoder.model-args.embed-dim 32"
    with pytest.raises(UserError, match=options):
        Encoder(EncoderConfig(name="vit_tiny_patch16_224", image_size=32, weights=str(tmp_path / "run")))
    with pytest.raises(UserError, match="the run has no checkpoint yet; resume it first: repre pretrain --resume"):
        Encoder(EncoderConfig(weights=str(tmp_path / "new")))
    with pytest.raises(UserError, match=r"there is no checkpoint .*none\.pt; the run has best, last"):
        Encoder(EncoderConfig(weights=f"{tmp_path / 'run'}@none"))


# ------------------------------------------------------------------------------------------------------ normalization


def published(spec: str) -> tuple[float, ...] | None:
    return statistics_of(spec, "vit_tiny_patch16_224")[0].mean


def test_statistics_follow_the_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """timm's weights of this name expect 0.5; a file of other weights does not say, and nothing is claimed."""
    torch.manual_seed(0)
    encoder = Encoder(tiny.ENCODERS["vit"])
    save_file(encoder.model.state_dict(), tmp_path / "bare.safetensors")
    save_encoder(encoder, tmp_path / "saved", mean=list(MEAN), std=list(STD))
    (tmp_path / "hf").mkdir()
    save_file(encoder.model.state_dict(), tmp_path / "hf" / "model.safetensors")
    (tmp_path / "hf" / "config.json").write_text(json.dumps({"model_type": "vit", "num_attention_heads": 2}))
    (tmp_path / "hf" / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": STD}))
    assert published("hub") == (0.5, 0.5, 0.5)
    assert published(str(tmp_path / "saved")) == published(str(tmp_path / "hf")) == MEAN
    pixels, words = statistics_of(str(tmp_path / "bare.safetensors"), "vit_tiny_patch16_224")
    assert pixels.mean is None
    assert "ImageNet's, since the file names none; timm's own weights of vit_tiny_patch16_224 expect mean 0.5" in words
    tagged = statistics_of(str(tmp_path / "bare.safetensors"), "vit_small_patch16_224.dino")
    assert tagged[0].mean == (0.485, 0.456, 0.406)
    assert "for the tag" in tagged[1]
    assert resolve_encoder(f"{VIT}={tmp_path / 'hf'}").mean == MEAN
    assert resolve_encoder(f"{VIT}={tmp_path / 'bare.safetensors'}").normalized(MEAN, STD).mean == MEAN
    resolve_encoder(f"{VIT}={tmp_path / 'bare.safetensors'}").build()
    said = capsys.readouterr().out
    assert "pixels with mean 0.485 0.456 0.406 and std 0.229 0.224 0.225 (ImageNet's, since" in said
    with pytest.raises(UserError, match="mean and std belong together"):
        resolve_encoder(VIT.partition("[")[0]).normalized(MEAN, None)


def test_a_run_normalizes_as_its_start_weights_do(tmp_path: Path) -> None:
    """Unless it says otherwise, or began before."""
    _, config = write_run(tmp_path / "run", "simclr", "vit")
    plain = replace(config, out=str(tmp_path / "new"), views=replace(config.views, mean=None, std=None))
    start = replace(plain, encoder=replace(plain.encoder, weights=str(tmp_path / "run")))
    assert with_statistics(plain) == plain
    assert with_statistics(start).views.mean == MEAN
    assert with_statistics(replace(plain, start_from=str(tmp_path / "run"))).views.mean == MEAN
    assert with_statistics(replace(start, encoder=replace(start.encoder, weights="hub"))).views.mean == (0.5,) * 3
    own = replace(start, views=replace(start.views, mean=(0.1,) * 3, std=(0.1,) * 3))
    assert with_statistics(own) == own
    words = RunState(own, torch.device("cpu")).start_weights
    assert words is not None
    assert "pixels with mean 0.1 0.1 0.1 and std 0.1 0.1 0.1, while the weights expect mean 0.4 0.5 0.6" in words
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.yaml").write_text(dump_yaml(start))
    assert with_statistics(start).views.mean is None  # it began with ImageNet's


# -------------------------------------------------------------------------------------------------- what holds no weights


def state(**changes: int) -> dict[str, Tensor]:
    config = tiny.ENCODERS["vit"]
    return dict(Encoder(replace(config, model_args=config.model_args | changes)).model.state_dict())


def with_nan() -> dict[str, Tensor]:
    return state() | {"norm.weight": torch.full((32,), torch.nan)}


def truncated() -> bytes:
    from safetensors.torch import save

    return save(state())[:-1000]


BAD_FILES: dict[str, tuple[Callable[[], Any], str]] = {
    "empty.pth": (bytes, "is empty; copy or download it again"),
    "page.pth": (lambda: b"<!DOCTYPE html><html>", "is a web page or XML, not weights: download the file itself"),
    "lfs.safetensors": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:1",
        "pointer of Git LFS.*lfs pull",
    ),
    "config.safetensors": (lambda: b'{"hidden_size": 3}', "is JSON, not weights"),
    "keras.bin": (lambda: b"\x89HDF\r\n\x1a\n", "is HDF5"),
    "google.npz": (lambda: b"PK", "convert it first: torch.save"),
    "program.onnx": (lambda: b"\x08", "it is a program"),
    "llama.gguf": (lambda: b"GGUF", "its weights are quantized"),
    "cut.safetensors": (truncated, "cannot be read as weights .*cut short"),
    "noise.pth": (lambda: b"nothing at all", "cannot be read as weights"),
    "code.pth": (lambda: {"model": nn.Linear(1, 1)}, "never unpickled"),
    "nothing.pth": (dict, "holds no tensors; save the model's state_dict"),
    "numbers.pth": (lambda: {"epoch": 3}, "holds no tensors"),
    "optimizer.pth": (
        lambda: {"optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}},
        r"holds no parameter of \S+, but optimizer.\*; give the state_dict of an encoder",
    ),
    "classifier.pth": (lambda: {"fc.weight": torch.zeros(2, 2)}, r"holds no parameter of \S+, but fc.\*"),
    "nan.pth": (with_nan, r"NaN or infinite \(norm.weight\).*diverged"),
    "int8.pth": (lambda: {k: v.to(torch.int8) for k, v in state().items()}, "quantized or whole numbers .int8"),
    "deep.pth": (
        lambda: state() | {f"blocks.9.{k[9:]}": v for k, v in state().items() if k.startswith("blocks.3.")},
        "the file has 10 blocks of width 32 and patches of 8, the encoder 4 blocks of width 32.*allow",
    ),
    "wide.pth": (
        lambda: state(embed_dim=64),
        "the file has 4 blocks of width 64 .* of another shape",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_what_is_not_weights_is_refused_with_a_reason(name: str, tmp_path: Path) -> None:
    """By `encoder.weights` and by NAME=FILE alike."""
    content, message = BAD_FILES[name]
    made = content()
    if isinstance(made, bytes):
        (tmp_path / name).write_bytes(made)
    else:
        torch.save(made, tmp_path / name)
    with pytest.raises(UserError, match=message) as first:
        Encoder(replace(tiny.ENCODERS["vit"], weights=str(tmp_path / name)))
    with pytest.raises(UserError, match=message.replace("allow", r"allow_partial=True\]=")) as second:
        resolve_encoder(f"{VIT}={tmp_path / name}").build()
    assert name in str(first.value)
    assert name in str(second.value)
    assert "--encoder.allow-partial" not in str(second.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_load(dtype: torch.dtype, tmp_path: Path) -> None:
    wanted = {key: value.to(dtype) for key, value in state().items()}
    torch.save(wanted, tmp_path / "half.pth")
    encoder = Encoder(replace(tiny.ENCODERS["vit"], weights=str(tmp_path / "half.pth")))
    assert all(torch.equal(value, wanted[key].float()) for key, value in encoder.model.state_dict().items())


def test_a_part_is_loaded_in_every_command_that_takes_an_encoder(tmp_path: Path) -> None:
    """By the very words of the refusal."""
    part = {key: value for key, value in state().items() if not key.startswith("norm.")}
    torch.save(part, tmp_path / "part.pth")
    with pytest.raises(UserError, match="2 missing") as refusal:
        resolve_encoder(f"{VIT}={tmp_path / 'part.pth'}").build()
    advised = str(refusal.value).rsplit("write '", 1)[1].removesuffix("'")
    with pytest.warns(UserWarning, match="2 missing"):
        encoder = resolve_encoder(advised).build()
    assert torch.equal(encoder.model.pos_embed, part["pos_embed"])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nope", "there is no run or file of that name, and timm has no model 'nope'"),
        ("vit_tiny_patch16_224=nope.pth", "there is no file nope.pth"),
        ("runs/nope", "there is no such run or file"),
        ("a" * 300, "cannot be opened: File name too long"),
        ("vit_tiny_patch16_224=" + "a" * 300, "cannot be opened: File name too long"),
        ("vit_tiny_patch16_224[patch_size=8", r"write NAME\[depth=6\]=FILE"),
        ("vit_tiny_patch16_224[patch_size=8]", r"or random:NAME\[depth=6\]"),
        ("local-dir:nope", "there is no run or file of that name"),
        ("{tmp}/foreign.pt", "the file does not name its model; write timm's name before it: NAME="),
        ("{tmp}/transformers", "holds no encoder of repre or timm .*or name timm's model of the weights: NAME="),
        ("{tmp}", "the folder holds neither a run nor an encoder"),
    ],
)
def test_names_of_nothing_say_what_was_looked_for(spec: str, message: str, tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1)}, tmp_path / "foreign.pt")
    (tmp_path / "transformers").mkdir()
    torch.save({"w": torch.zeros(1)}, tmp_path / "transformers" / "pytorch_model.bin")
    (tmp_path / "transformers" / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(UserError, match=message):
        resolve_encoder(spec.replace("{tmp}", str(tmp_path)))
