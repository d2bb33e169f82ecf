"""The adapters, each a PEFT method: one module, one YAML, one test."""

# Before any module of this package: PEFT's import registers the methods, which imports all of them,
# and none may be half imported then.
import peft as peft
