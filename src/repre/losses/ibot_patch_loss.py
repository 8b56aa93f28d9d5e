"""The loss of iBOT on masked patches (Zhou et al. 2022, arXiv 2111.07832, equation 2), as DINOv2 uses it."""

from torch import Tensor


def ibot_patch_loss(
    student: Tensor, targets: Tensor, weights: Tensor, *, images: int, student_temperature: float
) -> Tensor:
    """Cross-entropy between the teacher's and the student's prototype distributions of masked patches.

    It is averaged over the masked patches of each image, then over all images; an image without masked patches counts with a
    loss of 0. In slow loops, over the images of both global views::

        for i in range(images):
            for j in masked[i]:
                loss += -sum(targets[i][j] * log_softmax(student[i][j] / student_temperature)) / len(masked[i]) / images

    Args:
        student: the student's logits of masked patches only, of all images in one list, [M, P].
        targets: the teacher's distributions of the same patches, [M, P]; no gradient flows into them.
        weights: 1 / the number of masked patches in each patch's image, [M]; 0 for padded rows.
        images: images of all global views together, masked or not.
        student_temperature: divides the student's logits.
    """
    log_probabilities = (student / student_temperature).log_softmax(1)
    return -((targets.detach() * log_probabilities).sum(1) * weights).sum() / images
