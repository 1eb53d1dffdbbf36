"""Blocks of large scenes: how a scene is cut, and how a block is mapped."""
