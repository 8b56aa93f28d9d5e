"""From files to decoded images."""
