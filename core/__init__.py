"""What every other folder stands on: errors, files, bundles, untrusted input, processes."""
