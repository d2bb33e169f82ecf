"""What only a browser can show: `make test-browser`. Without one every test here skips by name."""
