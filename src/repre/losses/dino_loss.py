"""The self-distillation loss of DINO (arXiv 2104.14294, equations 1 to 4)."""

import torch
from torch import Tensor


def dino_loss(student: list[Tensor], targets: list[Tensor], *, student_temperature: float) -> Tensor:
    """Mean cross-entropy between the teacher's and the student's prototype distributions, over pairs of different views.

    In slow loops::

        for t in range(len(targets)):
            for s in range(len(student)):
                if s != t:
                    for i in range(B):
                        loss += -sum(targets[t][i] * log_softmax(student[s][i] / student_temperature)) / B / pairs

    Args:
        student: prototype logits of every view, global views first, each [B, P].
        targets: the teacher's distributions of the global views, each [B, P]; no gradient flows into them. DINO's are those
            of `centered_softmax`; `sinkhorn_knopp` gives others.
        student_temperature: divides the student's logits.
    """
    assert len(student) >= 2, "DINO compares different views, so it needs at least two of the student"
    log_probabilities = [(s / student_temperature).log_softmax(1) for s in student]
    terms = [
        -(target.detach() * log_probability).sum(1).mean()
        for t, target in enumerate(targets)
        for s, log_probability in enumerate(log_probabilities)
        if s != t
    ]
    return torch.stack(terms).mean()


def centered_softmax(logits: Tensor, center: Tensor, temperature: float | Tensor) -> Tensor:
    """The teacher's distributions, ``softmax((logits - center) / temperature)``, without gradient.

    Args:
        logits: [..., P].
        center: running mean of the logits, [P] or [1, P].
        temperature: divides the centered logits.
    """
    return ((logits.detach() - center) / temperature).softmax(-1)
