"""The command line, one module per command: its options, one call of `api`, its output."""
