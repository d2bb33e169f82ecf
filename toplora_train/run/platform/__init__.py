"""The machine: device, terminal, and a CPU's matmul and malloc."""
