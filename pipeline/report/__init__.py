"""Pictures and text for a person: matches, models, rankings, summaries."""
