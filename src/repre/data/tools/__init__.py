"""Tools for data sets: inspect a folder, write the embedded scenes to disk."""
