"""What the documents tell people to type exists, and what they link to is there."""

import importlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from repre import api
from repre.cli import run_options
from repre.cli.main import main
from repre.evaluation.registry import EVALUATIONS
from repre.exporters import TARGETS
from repre.frameworks import FRAMEWORKS
from repre.models.encoder import Encoder, EncoderConfig
from repre.models.timm_folder import load_saved_encoder, save_encoder
from repre.recipes import recipe
from tests import tiny
from tests.docs_script import script

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.md")])
FENCE = re.compile(r"^ *```[^\n]*\n(.*?)^ *```", re.M | re.S)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


class Parsed(Exception):
    """The command line was parsed; the work itself is not done here."""


def commands() -> list[tuple[str, str]]:
    """Page and command of every line of a code block that starts with repre or torchrun."""
    pairs = []
    for page in PAGES:
        for block in FENCE.findall(page.read_text(encoding="utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                command = line.strip().removeprefix("srun ").removeprefix("exec ").split(" # ")[0].strip()
                if command.startswith(("repre ", "torchrun ")):
                    pairs.append((page.relative_to(ROOT).as_posix(), command))
    return pairs


def arguments_of(command: str) -> list[str]:
    arguments = [argument for argument in shlex.split(command, comments=True) if argument != "..."]
    if ">" in arguments:
        arguments = arguments[: arguments.index(">")]
    if arguments[0] == "torchrun":
        arguments = arguments[arguments.index("repre.cli") :]
    return [argument.replace("$", "") for argument in arguments[1:]]


@pytest.fixture
def parsed_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Commands end with `Parsed` where they would start to work."""

    def parsed(*args: Any, **keywords: Any) -> Any:
        raise Parsed

    for name in api.__all__:
        if not isinstance(getattr(api, name), type):
            monkeypatch.setattr(api, name, parsed)
    monkeypatch.setattr(run_options, "load_yaml", lambda path: recipe("quickstart"))
    monkeypatch.setattr(run_options, "fit_to_images", lambda name, config: None)  # the images of the pages are not here
    monkeypatch.setattr(run_options, "continued_config", lambda spec, *, out: recipe("quickstart"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/photos").mkdir(parents=True)
    (tmp_path / "runs/photos/config.yaml").touch()


@pytest.mark.usefixtures("parsed_only")
@pytest.mark.parametrize(("page", "command"), commands())
def test_every_command_is_understood(page: str, command: str) -> None:
    assert understood(arguments_of(command))


TAKES_OPTIONS = {
    **{f"pretrain vit-tiny-{name}": "--help-all" for name in FRAMEWORKS},
    "plan": "--help-all",
    **{f"eval {name} --encoder runs/photos": "--help" for name in EVALUATIONS},
    f"compare runs/photos --eval {' '.join(EVALUATIONS)}": "--help",
    "embed --run runs/photos --data photos/ --out features.npz": "--help",
}
"""Commands with many options, and the option that lists them."""


@pytest.mark.usefixtures("parsed_only")
def test_every_option_in_the_text_is_understood(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Checks options with a dot, and all others that some command has, with their values if the text gives any."""
    monkeypatch.setenv("COLUMNS", "400")
    commands_with: dict[str, list[list[str]]] = {}
    for command, help_option in TAKES_OPTIONS.items():
        with pytest.raises(SystemExit):
            main([*command.split(), help_option])
        for name in set(re.findall(r"--[a-z][\w.-]+", capsys.readouterr().out)):
            commands_with.setdefault(name, []).append(command.split())
    assert len(commands_with) > 100
    for page in PAGES:
        for span in set(re.findall(r"`(--[a-z][^`]*)`", page.read_text(encoding="utf-8"))):
            name, *values = span.split()
            if "." in name and not name.startswith("--encoder.model-args."):
                assert name in commands_with, f"{page.name}: {span}"
            if name in commands_with and values and not re.search(r"[A-Z]{2}|\b[A-Z]$|\|", span):
                assert any(understood([*command, *span.split()]) for command in commands_with[name]), (
                    f"{page.name}: {span}"
                )


def understood(arguments: list[str]) -> bool:
    """Whether the command line can be parsed; help, version and a printed config count as well."""
    try:
        return main(arguments) == 0
    except Parsed:
        return True
    except SystemExit as exit:
        return exit.code == 0


def test_there_are_commands_to_look_at() -> None:
    assert {page for page, _ in commands()} > {"README.md", "docs/results.md"}
    assert len(commands()) > 12


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for page in PAGES:
        for target in re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(encoding="utf-8"), re.M):
            assert target in targets, f"{page.name}: make {target}"


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    def pages(entries: list[Any]) -> list[str]:
        found = [value for entry in entries for value in entry.values()]
        return [page for value in found for page in ([value] if isinstance(value, str) else pages(value))]

    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    docs = ROOT / "docs"
    assert sorted(pages(nav)) == sorted(page.relative_to(docs).as_posix() for page in docs.rglob("*.md"))


def anchor(title: str) -> str:
    """What GitHub and mkdocs make of a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower().replace("`", "")).strip().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_inside_the_project_resolves(page: Path) -> None:
    text = re.sub(FENCE, "", page.read_text(encoding="utf-8"))
    for link in LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, place = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if place:
            titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.M)
            assert place in {anchor(title) for title in titles}, link


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.M | re.S)


def test_the_settings_page_is_what_the_classes_say() -> None:
    page = (ROOT / "docs/config.md").read_text(encoding="utf-8")
    assert script("make_config").page() == page, "python docs/make_config.py"


@pytest.mark.parametrize("name", ["small-data, 1,000 images", "vit-tiny-moco-v3"])
def test_the_hardware_page_is_what_the_recipes_say(name: str) -> None:
    """Of the smallest recipes; to count the others takes a minute."""
    row = " | ".join(script("make_hardware").row(name))
    assert f"| {row} |\n" in (ROOT / "docs/hardware.md").read_text(encoding="utf-8"), "python docs/make_hardware.py"


def test_the_hardware_page_has_every_recipe_of_its_script() -> None:
    page = (ROOT / "docs/hardware.md").read_text(encoding="utf-8")
    names = [
        f"`{name.partition(', ')[0]}`{name[len(name.partition(', ')[0]) :]}" for name in script("make_hardware").RECIPES
    ]
    assert re.findall(r"^\| (`[a-z0-9-]+`[^|]*?) \| \d+ \|", page, re.M) == names


@pytest.fixture
def two_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page on exports speaks of: a plain transformer and a pyramid, and features in a file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    kinds = {
        "photos": EncoderConfig(name="vit_tiny_patch16_224", image_size=64, model_args={"depth": 4, "embed_dim": 48}),
        "swin": tiny.ENCODERS["swin"],
    }
    for name, config in kinds.items():
        torch.manual_seed(0)
        save_encoder(Encoder(config), tmp_path / f"runs/{name}/encoder", mean=[0.5] * 3, std=[0.5] * 3)
    np.savez("features.npz", paths=np.array(["a.png"]), features=np.zeros((1, 48)))
    (tmp_path / "photos").mkdir()
    for side, name in ((80, "a.jpg"), (100, "b.jpg")):
        Image.radial_gradient("L").resize((side, 72)).convert("RGB").save(tmp_path / "photos" / name)


@pytest.mark.slow
@pytest.mark.usefixtures("two_runs")
def test_other_libraries_take_the_encoder_as_the_page_on_exports_says() -> None:
    names: dict[str, Any] = {}
    for block in blocks("export.md"):
        if "import fiftyone" not in block and "exported/" not in block:  # nothing here needs it; in the next test
            exec(block, names)
        if "features = encoder(images)" in block:
            embedded = api.embed("runs/photos", data="photos", out="own.npz", runtime={"device": "cpu", "workers": 0})
            stored = torch.from_numpy(np.load(embedded.path)["features"])
            assert torch.allclose(names["features"].embedding, stored, atol=1e-5)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        embedding = names["encoder"].eval()(images).embedding
        assert embedding.shape == (2, 48)
        for model, spec in ((names["model"], "photos"), (names["pyramid"], "swin")):
            assert model.eval()(images).shape == (2, 21, 64, 64)
            saved = load_file(f"runs/{spec}/encoder/model.safetensors")
            weights = dict(model.encoder.model.named_parameters())
            assert weights
            for name, value in weights.items():  # smp leaves out what no map needs, and renames stages
                assert torch.equal(value, saved[re.sub(r"layers_(\d)", r"layers.\1", name)]), name
        assert set(names["detector"].eval()(list(images))[0]) == {"boxes", "labels", "scores", "masks"}
    truth = {
        "boxes": torch.tensor([[8.0, 8, 40, 40]]),
        "labels": torch.tensor([3]),
        "masks": torch.ones(1, 64, 64).byte(),
    }
    losses = names["detector"].train()(list(images), [truth, truth])
    assert sum(losses.values()).isfinite()


@pytest.mark.slow
@pytest.mark.usefixtures("two_runs")
def test_every_export_is_made_and_loaded_as_the_page_says() -> None:
    text = (ROOT / "docs/export.md").read_text(encoding="utf-8")
    for command in re.findall(r"^repre (export .+)$", text, re.M):
        assert main(command.split()) == 0
    libraries = {name: importlib.import_module(name) for name in ("timm", "transformers", "onnxruntime", "torch")}
    images = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        ours = load_saved_encoder("runs/photos/encoder").eval()(images).embedding
        found = {}
        for target, line in re.findall(r"^\| `([a-z-]+)` \| .* \| `(.+)` \|$", text, re.M):
            found[target] = eval(line, libraries)
        assert set(found) == set(TARGETS)
        names: dict[str, Any] = {}
        for block in blocks("export.md"):
            if "exported/" in block:
                exec(block, names)
        assert names["preprocessing"] == json.loads(names["texts"]["preprocessing"])
        assert (names["preprocessing"]["size"], names["preprocessing"]["mean"]) == ([64, 64], [0.5] * 3)
        for theirs in (
            found["timm"].eval()(images),
            found["huggingface"].eval()(images).pooler_output,
            torch.from_numpy(found["onnx"].run(None, {"images": images.numpy()})[0]),
            found["torch-export"](images)[0],
        ):
            assert torch.allclose(theirs, ours, atol=1e-4)
