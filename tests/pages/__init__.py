"""Every command and every Python block of the pages is run, at toy size."""
