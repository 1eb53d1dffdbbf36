"""Command-line jobs: parse the arguments, call one function, print its summary."""
