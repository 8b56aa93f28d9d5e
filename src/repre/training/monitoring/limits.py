"""Names and limits of metrics that the report needs too; imports no torch."""

BLOCKS = ("first", "middle", "last")
"""Blocks of the encoder at which the gradients of the two losses are compared."""
MAX_GRADIENT_RATIO = 10.0
"""Pixel over contrastive gradient norm above which the pixel loss drowns the contrastive loss."""
MIN_GRADIENT_RATIO = 0.02
"""Pixel over contrastive gradient norm below which the reconstruction branch changes little. Where the branch helped, the
ratio passed 0.4; a run in which it reached 0.05 ended like the plain framework (docs/evidence.md)."""
MIN_GRADIENT_COSINE = -0.5
"""Cosine between the two gradients below which the losses work against each other."""

MOTION_METRICS = frozenset({"teacher_moved", "student_moved", "teacher_follows"})
"""Metrics that compare a validation with the one before it; the first validation has none of them."""
LOWER_IS_BETTER = frozenset({"alignment", "uniformity"}) | MOTION_METRICS
"""Metrics of which `runtime.best_metric` takes the lowest value; it takes the highest of all others, a probe's included."""
