"""The commands on photographs and a model, one module each."""
