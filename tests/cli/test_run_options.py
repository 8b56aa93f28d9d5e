"""The options that `pretrain` and `plan` share."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repre import api
from repre.cli.run_options import COMMON, recipe_table
from repre.config import RunConfig, dump_yaml, load_yaml
from repre.recipes import RECIPES, recipe
from tests.cli.conftest import Repre

Parsed = Callable[..., RunConfig]


@pytest.fixture
def parsed(repre: Repre, monkeypatch: pytest.MonkeyPatch) -> Parsed:
    """The config that `repre pretrain ARGUMENTS` would train."""
    configs: list[RunConfig] = []

    def train_nothing(config: RunConfig) -> Any:
        configs.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "pretrain", train_nothing)

    def call(*arguments: object) -> RunConfig:
        code, _, err = repre("pretrain", *arguments)
        assert code == 130, err
        return configs.pop()

    return call


def test_options_change_a_recipe(parsed: Parsed) -> None:
    assert parsed() == recipe("quickstart")
    assert parsed("vit-small-dino") == recipe("vit-small-dino")
    config = parsed("vit-small-dino", "--epochs", "3", "--optim.lr=0.1", "--views.value_range", "0", "4095")
    assert (config.epochs, config.optim.lr, config.views.value_range) == (3, 0.1, (0, 4095))


def test_a_config_file_is_changed_by_options(parsed: Parsed, tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(dump_yaml(recipe("vit-tiny-moby")))
    assert parsed("--config", path) == recipe("vit-tiny-moby")
    assert parsed("--epochs", 3, f"--config={path}").epochs == 3


@pytest.mark.parametrize("command", ["pretrain", "plan"])
@pytest.mark.parametrize("name", ["vit-small-dino", "swin-tiny-moby"])
def test_a_printed_config_can_be_read_back(command: str, name: str, repre: Repre, tmp_path: Path) -> None:
    code, out, err = repre(command, name, "--epochs", 10, "--encoder.model-args.embed-dim", 96, "--print-config")
    assert (code, err) == (0, "")
    path = tmp_path / "my.yaml"
    path.write_text(out)
    config = load_yaml(path)
    assert (config.epochs, config.encoder.model_args) == (10, {"embed_dim": 96})
    assert repre("pretrain", "--config", path, "--print-config") == (0, out, "")


def test_resume_takes_the_config_and_the_folder_of_a_run(parsed: Parsed, repre: Repre, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(dump_yaml(recipe("vit-tiny-dino")))
    config = parsed("--resume", tmp_path, "--runtime.workers", 2)
    assert config.out == str(tmp_path)  # also after the folder was moved
    assert config.framework == recipe("vit-tiny-dino").framework
    assert config.runtime.workers == 2
    code, _, err = repre("pretrain", "--resume", tmp_path, "--out", tmp_path / "other")
    assert code == 2
    assert f"--config {tmp_path}/config.yaml" in err


def test_from_takes_the_settings_of_a_run_but_not_its_folder(parsed: Parsed, repre: Repre, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    (old / "checkpoints").mkdir(parents=True)
    (old / "checkpoints/last.pt").write_bytes(b"a checkpoint")
    warmup = replace(recipe("vit-tiny-dino").optim, warmup_fraction=0.2)
    (old / "config.yaml").write_text(dump_yaml(replace(recipe("vit-tiny-dino"), out=str(old), seed=3, optim=warmup)))
    config = parsed("--from", old, "--epochs", 7, "--views.size", 384, "--out", new)
    assert (config.start_from, config.out, config.epochs, config.seed) == (str(old), str(new), 7, 3)
    assert config.views.size == 384
    assert config.framework == recipe("vit-tiny-dino").framework
    assert config.optim.warmup_fraction == 0.05
    assert parsed("--from", old).out == ""  # which is refused later
    assert parsed("vit-tiny-dino", "--from", old).seed == 0
    new.mkdir()
    (new / "config.yaml").write_text(dump_yaml(replace(config, epochs=9)))
    shutil.rmtree(old)
    assert parsed("--from", old, "--out", new).epochs == 9  # it resumes without the other run
    for options, message in (
        (("--from", old), "no run or checkpoint"),
        (("--from", new, "--resume", new), "give only one of them"),
        (("--from", tmp_path), "no run in that folder"),
    ):
        code, _, err = repre("pretrain", *options)
        assert code == 2
        assert message in err


@pytest.mark.parametrize(
    ("option", "key", "value"),
    [
        (["--encoder.model-args.depth", "3"], "depth", 3),
        (["--encoder.model_args.embed-dim=96"], "embed_dim", 96),
        (["--encoder.model-args.drop-rate", "1e-2"], "drop_rate", 0.01),
        (["--encoder.model-args.qkv-bias", "false"], "qkv_bias", False),
        (["--encoder.model-args.global-pool", "avg"], "global_pool", "avg"),
        (["--encoder.model-args.depths", "1", "1", "2", "1"], "depths", (1, 1, 2, 1)),
        (["--encoder.model-args.shift", "-1"], "shift", -1),
    ],
)
def test_any_argument_of_the_timm_model_is_an_option(option: list[str], key: str, value: Any, parsed: Parsed) -> None:
    config = parsed("vit-tiny-dino", *option, "--epochs", 3)
    assert config.encoder.model_args == {key: value}
    assert type(config.encoder.model_args[key]) is type(value)
    assert config.epochs == 3


def test_recipes_keep_their_own_model_arguments(parsed: Parsed) -> None:
    own = recipe("quickstart").encoder.model_args
    assert parsed("--encoder.model-args.depth", 4).encoder.model_args == own | {"depth": 4}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vit-small-mocov3"], "'vit-small-moco-v3'"),
        (["quickstart", "--config", "my.yaml"], "only one of"),
        (["--config", "my.yaml", "--resume", "run"], "only one of"),
        (["--config", "absent.yaml"], "absent.yaml"),
        (["--config"], "--config"),
        (["--resume", "absent"], "no run in that folder"),
        (["--encoder.model-args.depth"], "--encoder.model-args.depth needs a value"),
        (["--encoder.model-args.depth", "--epochs", "3"], "--encoder.model-args.depth needs a value"),
        (["--epoch", "3"], "--epochs"),
        (["--batch-size", "many"], "many"),
        (["--compute.precision", "bf"], "bf16"),
        (["--optim.lr", "-1"], "optim.lr must not be negative"),
        (["--runtime.workers", "100000"], "runtime.workers must be 0 to 256"),
        (["--optim.lr", "nan"], "optim.lr must be a finite number"),
    ],
)
@pytest.mark.parametrize("command", ["pretrain", "plan"])
def test_mistakes_exit_with_code_2(command: str, arguments: list[str], message: str, repre: Repre) -> None:
    code, out, err = repre(command, *arguments)
    assert (code, out) == (2, "")
    assert message in err


def option_names(text: str) -> set[str]:
    return set(re.findall(r"--[a-z][\w.-]+", text[text.index("-h, --help") :]))


@pytest.mark.parametrize("command", ["pretrain", "plan"])
def test_help_lists_the_common_options_and_the_recipes(command: str, repre: Repre) -> None:
    code, out, _ = repre(command, "vit-small-dino", "--help")
    assert code == 0
    assert repre(command, "vit-small-dino", "-h") == (0, out, "")
    assert recipe_table() in out
    assert out.count(f"repre {command} ") >= 3, "usage and two examples"
    names = option_names(out)
    assert names >= {f"--{name.replace('_', '-')}" for name in COMMON} | {"--config", "--resume", "--print-config"}
    assert 25 <= len(names) <= 40
    assert "runs/vit-small-dino" in out, "defaults are those of the recipe"


@pytest.mark.parametrize("command", ["pretrain", "plan"])
def test_help_all_lists_every_option(command: str, repre: Repre) -> None:
    _, common, _ = repre(command, "--help")
    code, out, _ = repre(command, "--help-all")
    assert code == 0
    assert option_names(out) > option_names(common) - {"--help-all"}
    assert {"--views.first.jitter", "--decoder.dim", "--framework.out-dim"} <= option_names(out)
    assert ("--max-hours" in out) is (command == "plan")


def test_every_common_setting_has_help(repre: Repre, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = repre("pretrain", "--help")
    for name in COMMON:
        option = re.escape(f"--{name.replace('_', '-')}")
        described = re.search(rf"{option} .*?\(default:", out, re.S)
        assert described is not None
        assert len(described[0].replace("│", "").split()) > 4, option


def test_the_table_has_every_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "vicreg", recipe)
    header, *rows = [line.split() for line in recipe_table().splitlines()[1:]]
    *rows, others = rows
    in_table = {f"{row[0]}-{name}" for row in rows for name in header}
    named = {"quickstart", "small-data"}
    assert in_table | named | {"vit-small-moco-v3-timm", "vit-small-dino-released", "vicreg"} == set(RECIPES)
    assert all(row[1:] == ["x"] * len(header) for row in rows)
    assert others == [
        "others:",
        "quickstart,",
        "small-data,",
        "vit-small-moco-v3-timm,",
        "vit-small-dino-released,",
        "vicreg",
    ]
