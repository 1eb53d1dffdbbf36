"""A finished model that takes photographs in, and loses those that are gone."""
