"""The adapters, each a PEFT method: one module, one YAML, one test."""
