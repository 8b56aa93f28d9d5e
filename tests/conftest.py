"""Tests use one thread per process, a cache folder of their own, and few scenes where a run measures k-NN.

Models this small only wait for one another on several threads, and results do not depend on it.
"""

import atexit
import gc
import os
import shutil
import tempfile

import pytest
import torch

from repre.evaluation.classification import knn_probe

gc.disable()  # while tests are imported, which leaves nothing to collect
torch.set_num_threads(1)
knn_probe.PROBE_SCENES = 100  # thousands take longer than the whole run of a test
if "REPRE_CACHE" not in os.environ:  # a process that a test starts uses its parent's
    os.environ["REPRE_CACHE"] = tempfile.mkdtemp(prefix="repre-tests-")
    atexit.register(shutil.rmtree, os.environ["REPRE_CACHE"], ignore_errors=True)


def pytest_collection_finish() -> None:
    """Modules and tests stay until the end: searching them for garbage, again and again, took a fifth of the time."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Tests of a file stay on one worker, and those of the experiments and of the site, which share what they make."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return next((one for one in ("tests/experiments", "tests/site") if file.startswith(f"{one}/")), file)

    return Scheduling(config, log)
