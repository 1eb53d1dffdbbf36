"""Photographs that are turned against each other: guessed, found and shared by their pairs."""
