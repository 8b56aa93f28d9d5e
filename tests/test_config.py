"""A config survives YAML, every field is read somewhere, and recipes hold together."""

import dataclasses
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import repre
from repre.cli.run_options import RunOptions, parse_run_options
from repre.config import RunConfig, dump_yaml, identity, load_yaml
from repre.config_values import differences, from_dict, to_dict
from repre.data.loading.loader import LoaderConfig
from repre.data.views.augmentations import ViewConfig
from repre.data.views.view_recipes import MaskConfig, ViewsConfig
from repre.errors import UserError
from repre.frameworks.dino import DINOConfig
from repre.models.repre import ReconstructionConfig
from repre.recipes import RECIPES, recipe


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_yaml(name: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(dump_yaml(recipe(name)))
    assert load_yaml(path) == recipe(name)


def test_identity_leaves_out_where_and_how_it_is_shown() -> None:
    one = recipe("quickstart")
    other = dataclasses.replace(one, out="elsewhere", runtime=dataclasses.replace(one.runtime, workers=7))
    assert identity(one) == identity(other)
    changed = dataclasses.replace(one, optim=dataclasses.replace(one.optim, lr=0.5))
    assert differences(identity(changed), identity(one)) == [f"optim.lr: 0.5 here, {one.optim.lr} there"]
    assert differences({"a": {"b": 4}}, {"a": {"b": None}}, places=("now", "before")) == ["a.b: 4 now, not set before"]


def configs() -> set[type]:
    """The config dataclasses of the package."""
    return {
        value
        for module in list(sys.modules.values())
        if getattr(module, "__name__", "").startswith("repre.")
        for value in vars(module).values()
        if isinstance(value, type) and dataclasses.is_dataclass(value) and value.__name__.endswith("Config")
    }


def test_every_setting_is_read_and_documented() -> None:
    source = {path: path.read_text() for path in Path(repre.__file__).parent.rglob("*.py")}
    for kind in configs():
        for setting in dataclasses.fields(kind):
            reads = sum(len(re.findall(rf"\.{setting.name}\b", text)) for text in source.values())
            assert reads, f"{kind.__name__}.{setting.name} is never read"
            documented = any(re.search(rf"^    {setting.name}: .*\n    \"\"\"", text, re.M) for text in source.values())
            assert documented, f"{kind.__name__}.{setting.name} has no doc line"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "reference"),
        ("data: !!python/object/apply:os.system [exit]\n", "not valid YAML"),
        ("seed: 2024-99-99\n", "not valid YAML|seed"),
        ("[" * 5000, "not valid YAML"),
        ("encoder: {model_args: {checkpoint_path: /etc/passwd}}\n", "checkpoint_path cannot be set here"),
        ("encoder: {model_args: {pretrained_cfg_overlay: {file: x}}}\n", "model_args"),
    ],
)
def test_a_config_of_a_stranger_is_plain_values(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        load_yaml(tmp_path / "config.yaml")


def test_an_empty_file_is_no_config(tmp_path: Path) -> None:
    for text in ("", "# nothing\n", "{}\n"):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(UserError, match=r"config\.yaml is empty"):
            load_yaml(tmp_path / "config.yaml")


def test_without_the_branch_nothing_is_made_for_it() -> None:
    views = ViewsConfig(target="clean", mask=MaskConfig(kind="random", ratio=(0.5, 0.5), patch=32))
    assert RunConfig(views=views).rendered_views == views
    plain = RunConfig(views=views, reconstruction=ReconstructionConfig(weight=0.0))
    assert plain.rendered_views == ViewsConfig(target="view")


@pytest.mark.parametrize(("given", "read"), [("auto", "auto"), ("64", 64), ("0", 0)])
def test_a_micro_batch_is_a_number_or_left_to_the_device(given: str, read: int | str) -> None:
    options = parse_run_options(RunOptions, ["--compute.micro-batch", given], command="pretrain", description="")
    assert options.run.compute.micro_batch == read
    assert from_dict(RunConfig, to_dict(options.run)) == options.run


@pytest.mark.parametrize("wrong", ["atuo", True, 1.5])
def test_another_micro_batch_is_refused(wrong: object) -> None:
    with pytest.raises(UserError, match=r"compute\.micro_batch must be int or auto, not"):
        from_dict(RunConfig, {"compute": {"micro_batch": wrong}})


def test_what_only_changes_the_memory_of_a_step_is_not_part_of_a_runs_identity() -> None:
    one = RunConfig()
    other = replace(
        one,
        out="elsewhere",
        compute=replace(one.compute, micro_batch=8),
        encoder=replace(one.encoder, grad_checkpointing=True),
    )
    assert identity(one) == identity(other) == identity(to_dict(other))
    assert identity(one) != identity(replace(one, compute=replace(one.compute, precision="bf16")))


@pytest.mark.parametrize(("written", "meant"), [("on", "on"), ("off", "off"), ("true", "on"), ("'off'", "off")])
def test_on_and_off_may_be_written_without_quotes(tmp_path: Path, written: str, meant: str) -> None:
    """YAML reads them as truth values."""
    path = tmp_path / "config.yaml"
    path.write_text(f"compute:\n  compile: {written}\nloader:\n  cache: {written}\n")
    config = load_yaml(path)
    assert (config.compute.compile, config.loader.cache) == (meant, meant)


@pytest.mark.parametrize(("written", "meant"), [(96, 96), ([96, 128], (96, 128)), ([96, 96], 96)])
def test_a_size_is_a_side_or_height_and_width(tmp_path: Path, written: object, meant: object) -> None:
    """A square is its side however it is written, so that both are the same run."""
    path = tmp_path / "config.yaml"
    path.write_text(f"views: {{size: {written}, local_size: {written}}}")
    config = load_yaml(path)
    assert (config.views.size, config.views.local_size, config.encoder_at_size.image_size) == (meant, meant, meant)
    path.write_text(dump_yaml(config))
    assert load_yaml(path) == config
    assert identity(config) == identity(RunConfig(views=ViewsConfig(size=meant, local_size=meant)))  # type: ignore[arg-type]
    option = ["--views.size", *str(written).strip("[]").split(", ")]
    assert parse_run_options(RunOptions, option, command="pretrain", description="").run.views.size == meant
    for wrong in ([96], [96, 128, 3], "large", [96, 1.5]):
        with pytest.raises(UserError, match=r"views\.size"):
            from_dict(RunConfig, {"views": {"size": wrong}})


def test_files_of_up_to_512_pixels_are_not_shrunk_and_a_given_decode_size_is_taken() -> None:
    small_crops = ViewConfig(scale=(0.01, 0.02))
    views = ViewsConfig(size=48, n_local=2, local_size=96, local=small_crops)
    assert RunConfig(views=ViewsConfig(size=48)).decode_size == 512
    assert RunConfig(views=replace(views, n_local=0)).decode_size == 512
    assert RunConfig(views=views, framework=DINOConfig()).decode_size == 1072, "96 / sqrt(3/4 x 0.011), in whole 16s"
    assert RunConfig(views=views, framework=DINOConfig(), loader=LoaderConfig(decode_size=200)).decode_size == 200
