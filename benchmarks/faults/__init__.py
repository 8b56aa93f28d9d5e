"""Breaks runs on purpose and writes down what happened: `python -m benchmarks.faults`, or `make faults`."""
