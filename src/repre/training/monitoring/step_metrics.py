"""Metrics of one training step. They only read what the step left behind."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repre.training.monitoring.embedding_metrics import normalized_std
from repre.types import FrameworkOutput
from repre.utils.dist import all_gather_with_grad
from repre.utils.fsdp import total_norm


def step_metrics(output: FrameworkOutput) -> dict[str, Tensor]:
    """The terms of the framework's loss, its metrics and those of its embeddings: scalars on the device. A collective call.

    batch_std: `normalized_std` of the student's embeddings of the global batch.
    agreement: mean cosine of the teacher's and the student's embeddings of one view; only with a teacher. Drop path is
        active in the student.
    """
    embedding = output.embedding.float()
    terms = {f"loss_{name}": term.detach() for name, term in output.terms.items()}
    metrics = {**terms, **output.metrics, "batch_std": normalized_std(all_gather_with_grad(embedding))}
    if output.teacher_embedding is not None:
        metrics["agreement"] = F.cosine_similarity(embedding, output.teacher_embedding.float()).mean()
    return metrics


class WeightChange:
    """Compares the encoder's weight matrices before and after an optimizer step. Create it before the step."""

    def __init__(self, encoder: nn.Module) -> None:
        self.matrices = weight_matrices(encoder)
        self.before = [matrix.clone() for matrix in self.matrices]

    def metrics(self) -> dict[str, Tensor]:
        """Scalars on the device, after the step. A collective call where parameters are sharded.

        weight_size: root mean square of the entries of all matrices.
        update_size: norm of the change divided by the norm before it, over all matrices.
        """
        change = torch._foreach_sub(self.matrices, self.before)
        update_size = total_norm(change) / total_norm(self.before).clamp(min=1e-12)
        return {"weight_size": weight_size(self.matrices), "update_size": update_size}


def weight_matrices(encoder: nn.Module) -> list[Tensor]:
    """The trainable parameters with at least two dimensions, detached."""
    return [p.detach() for p in encoder.parameters() if p.requires_grad and p.ndim > 1]


def weight_size(matrices: Sequence[Tensor]) -> Tensor:
    """Root mean square of all entries, a scalar. A collective call where parameters are sharded."""
    return total_norm(matrices) / sum(matrix.numel() for matrix in matrices) ** 0.5
