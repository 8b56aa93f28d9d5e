"""From decoded images to batches: order, worker processes, the manifest of a run."""
