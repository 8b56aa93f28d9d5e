"""Slow, obvious losses: nested loops over Python floats and small vectors."""

import math

import torch
from torch import Tensor


def cos(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.norm() * b.norm())


def softmax(logits: list[Tensor]) -> list[Tensor]:
    exponentials = [torch.exp(logit) for logit in logits]
    return [e / sum(exponentials) for e in exponentials]


def info_nce(queries: Tensor, keys: Tensor, temperature: float, offset: int = 0) -> Tensor:
    total = torch.zeros((), dtype=queries.dtype)
    for i in range(len(queries)):
        logits = [cos(queries[i], keys[j]) / temperature for j in range(len(keys))]
        total = total - torch.log(torch.exp(logits[offset + i]) / sum(torch.exp(x) for x in logits))
    return total / len(queries)


def info_nce_queue(queries: Tensor, positives: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    total = torch.zeros((), dtype=queries.dtype)
    for i in range(len(queries)):
        logits = [cos(queries[i], positives[i]) / temperature]
        logits += [cos(queries[i], negatives[j]) / temperature for j in range(len(negatives))]
        total = total - torch.log(torch.exp(logits[0]) / sum(torch.exp(x) for x in logits))
    return total / len(queries)


def nt_xent(a: Tensor, b: Tensor, all_a: Tensor, all_b: Tensor, temperature: float, offset: int = 0) -> Tensor:
    pool, g = [*all_a, *all_b], len(all_a)
    total = torch.zeros((), dtype=a.dtype)
    for i in range(len(a)):
        for anchor, own, other in ((a[i], offset + i, g + offset + i), (b[i], g + offset + i, offset + i)):
            denominator = sum(torch.exp(cos(anchor, pool[j]) / temperature) for j in range(2 * g) if j != own)
            total = total - torch.log(torch.exp(cos(anchor, pool[other]) / temperature) / denominator)
    return total / (2 * len(a))


def cosine_regression(predictions: Tensor, targets: Tensor) -> Tensor:
    return sum(2 - 2 * cos(p, t) for p, t in zip(predictions, targets)) / len(predictions)


def dino(
    student: list[Tensor],
    teacher: list[Tensor],
    center: Tensor,
    student_temperature: float,
    teacher_temperature: float,
) -> Tensor:
    total, pairs = torch.zeros((), dtype=center.dtype), 0
    for t in range(len(teacher)):
        for s in range(len(student)):
            if s == t:
                continue
            pairs += 1
            for i in range(len(teacher[t])):
                p = softmax([(teacher[t][i][k] - center[k]) / teacher_temperature for k in range(len(center))])
                q = softmax([student[s][i][k] / student_temperature for k in range(len(center))])
                total = total - sum(p_k * torch.log(q_k) for p_k, q_k in zip(p, q)) / len(teacher[t])
    return total / pairs


def pixel(prediction: Tensor, target: Tensor, kind: str, mask: Tensor | None = None) -> float:
    means = []
    b, c, h, w = prediction.shape
    for i in range(b):
        values = []
        for k in range(c):
            for y in range(h):
                for x in range(w):
                    if mask is None or mask[i, 0, y, x]:
                        d = abs(float(prediction[i, k, y, x] - target[i, k, y, x]))
                        values.append({"l1": d, "l2": d * d, "smooth_l1": d - 0.5 if d > 1 else d * d / 2}[kind])
        means.append(math.fsum(values) / len(values) if values else 0.0)
    return math.fsum(means) / len(means)
