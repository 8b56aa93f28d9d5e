"""Augmented views: random parameters are drawn here and applied on the device."""
