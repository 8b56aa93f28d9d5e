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
    """Of the teacher's logits, which are centered and sharpened."""
    targets = [centered(view, center, teacher_temperature) for view in teacher]
    return dino_of_targets(student, targets, student_temperature)


def centered(logits: Tensor, center: Tensor, temperature: float) -> list[list[Tensor]]:
    return [softmax([(row[k] - center[k]) / temperature for k in range(len(row))]) for row in logits]


def cross_entropy(target: list[Tensor], logits: Tensor, temperature: float) -> Tensor:
    q = softmax([x / temperature for x in logits])
    return -sum(p_k * torch.log(q_k) for p_k, q_k in zip(target, q))


def dino_of_targets(student: list[Tensor], targets: list[list[list[Tensor]]], temperature: float) -> Tensor:
    total, pairs = torch.zeros((), dtype=student[0].dtype), 0
    for t in range(len(targets)):
        for s in range(len(student)):
            if s == t:
                continue
            pairs += 1
            for i in range(len(targets[t])):
                total = total + cross_entropy(targets[t][i], student[s][i], temperature) / len(targets[t])
    return total / pairs


def sinkhorn_knopp(logits: list[Tensor], temperature: float, iterations: int = 3) -> list[list[Tensor]]:
    n, prototypes = len(logits), len(logits[0])
    q = [[torch.exp(x / temperature) for x in row] for row in logits]
    for _ in range(iterations):
        for k in range(prototypes):
            total = sum(q[i][k] for i in range(n))
            for i in range(n):
                q[i][k] = q[i][k] / (total * prototypes)
        for i in range(n):
            total = sum(q[i])
            q[i] = [x / (total * n) for x in q[i]]
    return [[n * x for x in row] for row in q]


def ibot_patch(student: Tensor, targets: list, masks: Tensor, temperature: float) -> Tensor:
    """`student` [images, N, P], `targets` one distribution for each of these patches, `masks` bool [images, N]."""
    total = torch.zeros((), dtype=student.dtype)
    for i in range(len(masks)):
        masked = [j for j in range(masks.shape[1]) if masks[i, j]]
        for j in masked:
            total = total + cross_entropy(targets[i][j], student[i, j], temperature) / len(masked) / len(masks)
    return total


def koleo(embeddings: Tensor, everyone: Tensor, offset: int = 0) -> Tensor:
    total = torch.zeros((), dtype=embeddings.dtype)
    for i in range(len(embeddings)):
        mine = embeddings[i] / embeddings[i].norm()
        distances = []
        for j in range(len(everyone)):
            if j != offset + i:
                difference = mine - everyone[j] / everyone[j].norm() + 1e-8
                distances.append(torch.sqrt((difference * difference).sum()))
        total = total - torch.log(min(distances) + 1e-8)
    return total / len(embeddings)


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
