"""A run whose images moved resumes with their new path, and with no other images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repre.config import load_yaml
from repre.errors import UserError
from repre.training.loop import train
from repre.utils.signals import Interrupted
from tests.data.packing import pack_shards
from tests.training.test_loop import assert_equal, config, stop_at, weights


def photos(folder: Path, *, seed: int = 0, count: int = 24) -> Path:
    folder.mkdir()
    for number, pixels in enumerate(np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)):
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
def test_a_run_resumes_with_the_new_path_of_its_images(tmp_path: Path, packed: bool) -> None:
    folder = photos(tmp_path / "old")
    data = pack_shards(folder, tmp_path / "shards") if packed else str(folder)
    train(config(tmp_path / "straight", data=data, epochs=2))
    run = config(tmp_path / "run", data=data, epochs=2)
    with pytest.raises(Interrupted):
        train(run, probe=stop_at(3))
    other = str(photos(tmp_path / "other", seed=1))
    with pytest.raises(UserError, match="does not hold the images that the run began with"):
        train(replace(run, data=other))
    assert load_yaml(tmp_path / "run/config.yaml").data == data, "a refused command claims nothing"
    (tmp_path / ("shards" if packed else "old")).rename(tmp_path / "new")
    moved = data.replace("/shards/" if packed else "/old", "/new/" if packed else "/new")
    train(replace(run, data=moved))
    assert_equal(weights(tmp_path / "straight"), weights(tmp_path / "run"))
    assert load_yaml(tmp_path / "run/config.yaml").data == moved
    with pytest.raises(UserError, match=r"data: .*other here, .*new.* there"):
        train(replace(run, data=other))


def test_another_choice_of_files_is_another_run(tmp_path: Path) -> None:
    run = config(tmp_path / "run", data=str(photos(tmp_path / "old")), epochs=2)
    with pytest.raises(Interrupted):
        train(run, probe=stop_at(3))
    with pytest.raises(UserError, match=r"exclude: \['0\*'\] here, \[\] there"):
        train(replace(run, exclude=("0*",)))
