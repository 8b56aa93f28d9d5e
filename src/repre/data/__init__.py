"""Images from disk to augmented views on the device."""
