"""All contact with PEFT's private interface, which may change with any of its releases."""
