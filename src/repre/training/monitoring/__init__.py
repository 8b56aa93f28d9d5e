"""Metrics without labels, alarms, reconstructions and snapshots. Nothing here changes the weights."""
