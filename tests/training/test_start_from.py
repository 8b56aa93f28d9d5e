"""A run that starts with the state of another: every tensor, what may change, longer plans without loss, exact resume."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from repre.config import RunConfig
from repre.errors import UserError
from repre.models.repre import ReconstructionConfig
from repre.training.checkpoint import load_checkpoint
from repre.training.loop import train
from repre.training.optim import OptimConfig
from repre.training.run_folder import RunFolder
from repre.training.start_from import MAX_WARMUP, continued_config, open_start, started_config
from repre.utils.signals import Interrupted
from tests import tiny
from tests.training.test_loop import QUIET, assert_equal, stop_at, weights
from tests.training.test_loop import config as loop_config

FEW = replace(QUIET, monitors=False, eval_every_epochs=100)
STABLE = OptimConfig(
    lr=1e-3, base_batch_size=8, warmup_fraction=0.25, schedule="wsd", decay_fraction=0.5, weight_decay_end=0.4
)


def config(out: Path, framework: str = "moco-v3", encoder: str = "vit", **changes: Any) -> RunConfig:
    return replace(loop_config(out, framework, encoder, runtime=FEW, epochs=1), **changes)


def last(out: Path) -> dict[str, Any]:
    return load_checkpoint(out / "checkpoints/last.pt")


def leaves(tree: Any, name: str = "") -> dict[str, torch.Tensor]:
    """All tensors of nested dictionaries by their path."""
    if isinstance(tree, torch.Tensor):
        return {name: tree}
    if not isinstance(tree, dict):
        return {}
    return {key: value for part, item in tree.items() for key, value in leaves(item, f"{name}.{part}").items()}


@pytest.mark.parametrize("encoder", ["vit", "swin"])
@pytest.mark.parametrize("framework", tiny.FRAMEWORKS)
def test_a_run_starts_with_every_tensor_of_the_other(tmp_path: Path, framework: str, encoder: str) -> None:
    """Encoder, heads, teacher, queue, center, decoder and the averages of the optimizer."""
    train(config(tmp_path / "a", framework, encoder))
    new = replace(continued_config(str(tmp_path / "a"), out=tmp_path / "b"), out=str(tmp_path / "b"))
    with pytest.raises(Interrupted):
        train(new, probe=stop_at(0))
    one, other = last(tmp_path / "a"), last(tmp_path / "b")
    assert other["step"] == 0
    assert other["start"] == {
        "checkpoint": str(tmp_path / "a/checkpoints/last.pt"),
        "step": 3,
        "first_step": 0,
        "sha256": torch.load(tmp_path / "a/checkpoints/last.pt", weights_only=True)["sha256"],
    }
    assert one["optimizer_names"] == other["optimizer_names"]
    for part in ("model", "optimizer"):
        assert_equal(leaves(one[part]), leaves(other[part]))
    assert len(leaves(other["optimizer"])) == 3 * len(one["optimizer"]["state"]) > 30


@pytest.mark.parametrize(("framework", "encoder"), [("moby", "swin"), ("dino", "vit")])
def test_a_started_run_that_is_stopped_is_bit_equal_and_does_without_the_other(
    tmp_path: Path, framework: str, encoder: str
) -> None:
    train(config(tmp_path / "a", framework, encoder))

    def new(name: str) -> RunConfig:
        made = continued_config(str(tmp_path / "a"), out=tmp_path / name)
        return replace(made, out=str(tmp_path / name), epochs=2, runtime=replace(FEW, eval_every_epochs=1))

    train(new("straight"))
    with pytest.raises(Interrupted):
        train(new("stopped"), probe=stop_at(3))
    shutil.rmtree(tmp_path / "a")
    train(new("stopped"))
    assert_equal(weights(tmp_path / "straight"), weights(tmp_path / "stopped"))
    train(new("stopped"))  # finished


@pytest.mark.parametrize("framework", ["dinov2", "moby"])
def test_a_longer_plan_gives_the_weights_that_it_would_have_given_from_the_start(
    tmp_path: Path, framework: str
) -> None:
    """With every schedule there is: warm-up, momentum, temperature, frozen layers, weight decay, an end of the branch."""
    branch = ReconstructionConfig(weight=1.0, end_fraction=0.5)
    heads = {"freeze_last_layer": 0.5, "teacher_temperature_warmup": 0.6} if framework == "dinov2" else {}
    made = tiny.FRAMEWORKS[framework]
    made = replace(made, momentum=0.9, head_warmup=0.25, **heads)
    short = config(tmp_path / "short", framework, optim=STABLE, reconstruction=branch, epochs=2)
    short = replace(short, framework=made)
    train(short)
    stable = tmp_path / "short/checkpoints/stable.pt"
    assert load_checkpoint(stable)["step"] == 3
    longer = continued_config(str(stable), out=tmp_path / "longer")
    assert longer.optim.warmup_fraction == MAX_WARMUP  # unless the plan goes on
    longer = replace(longer, out=str(tmp_path / "longer"), epochs=3)
    assert longer.framework.head_warmup == 0.0
    with pytest.raises(Interrupted):
        train(longer, probe=stop_at(3))
    assert last(tmp_path / "longer")["step"] == 3
    train(longer)
    whole = replace(short, out=str(tmp_path / "whole"), epochs=3, optim=replace(STABLE, base_epochs=2))
    train(whole)
    one, other = last(tmp_path / "longer"), last(tmp_path / "whole")
    assert one["step"] == other["step"] == 9
    for part in ("model", "optimizer"):
        assert_equal(leaves(one[part]), leaves(other[part]))
    ends = [load_checkpoint(tmp_path / name / "checkpoints/stable.pt") for name in ("longer", "whole")]
    assert [end["step"] for end in ends] == [5, 5]
    assert_equal(leaves(ends[0]["model"]), leaves(ends[1]["model"]))
    shortened = replace(
        continued_config(str(tmp_path / "whole/checkpoints/stable.pt"), out=None), out=str(tmp_path / "n")
    )
    with pytest.raises(UserError, match=r"continues from step 5.*give --epochs 4 or more"):
        train(replace(shortened, optim=replace(shortened.optim, decay_fraction=0.6)))


@pytest.mark.parametrize(("encoder", "size"), [("vit", 48), ("vit", (32, 48)), ("swin", 96)])
def test_a_last_phase_at_another_size_resamples_positions_of_encoder_and_teacher(
    tmp_path: Path, encoder: str, size: Any
) -> None:
    train(config(tmp_path / "a", "moby", encoder))
    new = continued_config(str(tmp_path / "a"), out=None)
    new = replace(new, out=str(tmp_path / "b"), views=replace(new.views, size=size))
    with pytest.raises(Interrupted):
        train(new, probe=stop_at(0))
    one, other = last(tmp_path / "a"), last(tmp_path / "b")
    changed = {name for name, value in other["model"].items() if not torch.equal(value, one["model"].get(name))}
    end = (
        "pos_embed" if encoder == "vit" else "layers.3.blocks.0.attn.relative_position_bias_table"
    )  # the others have 4 x 4
    assert changed == {f"encoder.model.{end}", f"framework.teacher.encoder.model.{end}"}
    reset = {name for name in changed if not name.startswith("framework.teacher")}
    averages = {name: other["optimizer"]["state"].get(n) for n, name in enumerate(other["optimizer_names"])}
    assert {name for name, state in averages.items() if state is None} == reset
    train(new)
    assert all(value.isfinite().all() for value in weights(tmp_path / "b").values())
    assert "2 position tables resampled" in (tmp_path / "b/log.txt").read_text()


def test_relative_position_tables_are_resampled_where_the_windows_differ(tmp_path: Path) -> None:
    tables = {"embed_dim": 16, "depth": 2, "num_heads": 2, "use_rel_pos_bias": True}
    beit = replace(tiny.ENCODERS["vit"], name="beit_base_patch16_224", model_args=tables)
    made = config(tmp_path / "a", "byol", encoder="vit")
    train(replace(made, encoder=replace(beit, image_size=None)))
    new = continued_config(str(tmp_path / "a"), out=None)
    train(replace(new, out=str(tmp_path / "b"), views=replace(new.views, size=64)))
    one, other = weights(tmp_path / "a"), weights(tmp_path / "b")
    names = {name for name, value in other.items() if one[name].shape != value.shape}
    assert names
    assert all(name.endswith("relative_position_bias_table") for name in names)
    assert any(name.startswith("framework.teacher") for name in names)


def test_a_branch_may_come_and_go_and_groups_may_change(tmp_path: Path) -> None:
    train(config(tmp_path / "with"))
    new = continued_config(str(tmp_path / "with"), out=None)
    without = replace(new, out=str(tmp_path / "without"), reconstruction=ReconstructionConfig(weight=0.0))
    train(replace(without, optim=replace(without.optim, layer_decay=0.7), batch_size=6, data="scenes:18:32"))
    again = continued_config(str(tmp_path / "without"), out=None)
    again = replace(again, out=str(tmp_path / "again"), reconstruction=ReconstructionConfig(weight=1.0))
    with pytest.raises(Interrupted):
        train(again, probe=stop_at(0))
    one, other = last(tmp_path / "without"), last(tmp_path / "again")
    own = {name for name in other["model"] if name not in one["model"]}
    assert own
    assert all(name.startswith("decoder.") for name in own)
    assert all(torch.equal(value, other["model"][name]) for name, value in one["model"].items())
    averages = [
        {name: found["optimizer"]["state"].get(n) for n, name in enumerate(found["optimizer_names"])}
        for found in (one, other)
    ]
    assert_equal(leaves(averages[0]), {k: v for k, v in leaves(averages[1]).items() if not k.startswith(".decoder")})


CHANGES = {
    "framework.name": {"framework": tiny.FRAMEWORKS["byol"]},
    "framework.hidden_dim": {"framework": replace(tiny.FRAMEWORKS["moby"], hidden_dim=32)},
    "framework.queue": {"framework": replace(tiny.FRAMEWORKS["moby"], queue=24)},
    "encoder.name": {"encoder": replace(tiny.ENCODERS["vit"], name="vit_small_patch16_224")},
    "encoder.patch_size": {"encoder": replace(tiny.ENCODERS["vit"], patch_size=4)},
    "encoder.model_args.num_heads": {
        "encoder": replace(tiny.ENCODERS["vit"], model_args={"embed_dim": 32, "depth": 4, "num_heads": 4})
    },
    "decoder.dim": {"decoder": replace(loop_config(Path()).decoder, dim=24)},
}


@pytest.fixture(scope="module")
def moby(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of MoBY that tests may read but not change."""
    out = tmp_path_factory.mktemp("runs") / "moby"
    train(config(out, "moby", runtime=replace(FEW, eval_every_epochs=1)))
    return out


@pytest.mark.parametrize("setting", CHANGES)
def test_what_cannot_be_taken_over_is_named(setting: str, moby: Path, tmp_path: Path) -> None:
    new = replace(config(tmp_path / "b", "moby"), **CHANGES[setting])  # type: ignore[arg-type]
    values = ".* in the new run, .* in the run that it starts from"
    advice = "the recipe or the --config.*--encoder.weights"
    with pytest.raises(UserError, match=rf"(?s)\n  {setting}: {values}.*{advice}"):
        train(started_config(new, str(moby)))
    assert not (tmp_path / "b").exists()


def test_mistakes_in_the_start(moby: Path, tmp_path: Path) -> None:
    new = replace(continued_config(str(moby), out=None), out=str(tmp_path / "b"))
    best = moby / "checkpoints/best.pt"
    with pytest.raises(UserError, match=rf"{best} holds an encoder only.*--from {moby}/checkpoints/last.pt"):
        train(replace(new, start_from=str(best)))
    encoder = replace(tiny.ENCODERS["vit"], weights=str(best))
    weights_alone = replace(config(tmp_path / "alone"), encoder=encoder)
    train(weights_alone)  # as the message advises
    with pytest.raises(UserError, match="no run or checkpoint"):
        continued_config(str(tmp_path / "nowhere"), out=None)
    with pytest.raises(UserError, match="no run in that folder"):
        continued_config(str(tmp_path), out=None)
    with pytest.raises(UserError, match="with --out"):
        train(replace(new, out=""))
    with pytest.raises(UserError, match="names the same folder"):
        train(replace(new, out=str(moby)))
    with pytest.raises(UserError, match=r"leave out encoder\.weights"):
        replace(new, encoder=replace(new.encoder, weights="hub"))


def test_the_start_may_be_named_in_several_ways(moby: Path, tmp_path: Path) -> None:
    for spec in (str(moby), f"{moby}@last", str(moby / "checkpoints/last.pt")):
        new = replace(continued_config(spec, out=None), out=str(tmp_path / "b"))
        _, start = open_start(new, RunFolder(new.out))
        assert start is not None
        assert (start.source_step, start.first_step) == (3, 0)
        assert start.checkpoint == moby / "checkpoints/last.pt"
