"""What the file of a photograph was: whether it has changed since."""
