"""The functions of `pipeline`: what the commands do."""
