"""The command line: one file per command. Commands parse options, call `repre.api` and print the results."""
