"""What the features are worth: evaluations of any encoder."""
