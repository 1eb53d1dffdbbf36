"""Photographs that are turned or scaled against each other: guessed, found, shared by pairs."""
