"""The configuration: schema, composition, validation. The only package that imports Hydra."""
