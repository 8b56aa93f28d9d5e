"""Every command of `repre` as a function. The command line parses options, calls these functions and prints their results."""

from repre.api.runs import Probe, Run, load_encoder, pretrain

__all__ = ["Probe", "Run", "load_encoder", "pretrain"]
