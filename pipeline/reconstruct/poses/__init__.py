"""Reconstruct with known poses: as they are, or as priors."""
