"""COLMAP models of any origin: looked at, compared, moved, cropped and merged."""
