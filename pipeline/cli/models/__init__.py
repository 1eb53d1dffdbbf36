"""One file a subcommand of `eloftr model`."""
