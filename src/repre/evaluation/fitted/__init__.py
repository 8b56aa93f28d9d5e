"""Models that evaluations fitted: kept in folders, loaded, and used on other images."""
