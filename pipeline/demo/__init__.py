"""The demo: a drawn courtyard, photographed from known cameras."""
