"""What users of transformers expect: configuration, models, image processors, outputs, pipeline."""
