"""The machine: device, terminal, and how a CPU multiplies and allocates."""
