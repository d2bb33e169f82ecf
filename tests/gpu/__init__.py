"""What can only be shown on a GPU: `make test-gpu`. Without one every test here skips by name."""
