"""Matching: options, plan, shards, read, match, verify, the run folder and its summary."""
