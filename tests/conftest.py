"""One thread per test process: models this small only wait for one another on several, and results do not depend on it."""

import torch

torch.set_num_threads(1)
