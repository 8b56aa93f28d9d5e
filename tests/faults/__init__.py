"""Breaks runs on purpose and writes down what happened: `python -m tests.faults`, or `make faults`."""
