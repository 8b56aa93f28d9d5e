"""Breaks runs on purpose and records what happens: `python -m tests.faults`, or `make faults`."""
