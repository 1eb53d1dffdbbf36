"""Models of blocks, joined into models of the scene."""
