"""The self-distillation loss of DINO (arXiv 2104.14294, equations 1 to 4)."""

import torch
from torch import Tensor


def dino_loss(
    student: list[Tensor],
    teacher: list[Tensor],
    center: Tensor,
    *,
    student_temperature: float,
    teacher_temperature: float | Tensor,
) -> Tensor:
    """Mean cross-entropy between the teacher's and the student's prototype distributions, over pairs of different views.

    In slow loops::

        for t in range(len(teacher)):
            for s in range(len(student)):
                if s != t:
                    for i in range(B):
                        p = softmax((teacher[t][i] - center) / teacher_temperature)
                        loss += -sum(p * log_softmax(student[s][i] / student_temperature)) / B / pairs

    Args:
        student: prototype logits of every view, global views first, each [B, P].
        teacher: prototype logits of the global views, each [B, P]; no gradient flows into them.
        center: running mean of the teacher's logits, [P] or [1, P].
        student_temperature, teacher_temperature: divide the logits.
    """
    assert len(student) >= 2, "DINO compares different views, so it needs at least two of the student"
    targets = [((t.detach() - center) / teacher_temperature).softmax(1) for t in teacher]
    log_probabilities = [(s / student_temperature).log_softmax(1) for s in student]
    terms = [
        -(target * log_probability).sum(1).mean()
        for t, target in enumerate(targets)
        for s, log_probability in enumerate(log_probabilities)
        if s != t
    ]
    return torch.stack(terms).mean()
