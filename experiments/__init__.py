"""The experiments behind docs/evidence.md: plan, code and results. README.md in this folder explains how to run them."""
