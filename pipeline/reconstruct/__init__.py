"""From the matches of a run to a COLMAP database and sparse models."""
