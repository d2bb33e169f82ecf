"""What a run is: schema, strict check, and the resolved file. The only package that knows Hydra."""
