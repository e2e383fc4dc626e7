"""The `river-trt` command; each subcommand is one file."""
