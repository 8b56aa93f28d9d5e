"""Tests use one thread per process, and a cache folder of their own.

Models this small only wait for one another on several threads, and results do not depend on it.
"""

import atexit
import os
import shutil
import tempfile

import torch

torch.set_num_threads(1)
if "REPRE_CACHE" not in os.environ:  # a process that a test starts uses its parent's
    os.environ["REPRE_CACHE"] = tempfile.mkdtemp(prefix="repre-tests-")
    atexit.register(shutil.rmtree, os.environ["REPRE_CACHE"], ignore_errors=True)
