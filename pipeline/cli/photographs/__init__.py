"""Commands that add photographs to a model; a line of help for each is in `pipeline/cli/app.py`."""
