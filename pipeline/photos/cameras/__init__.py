"""Cameras that a person describes, and the pixels of files as they are stored."""
