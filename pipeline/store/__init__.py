"""Folders on disk or in an object store: list, read, publish whole, mark done, one writer."""
