"""Whole-image evaluations: k-NN, linear probe, fine-tuning."""
