"""Forward passes behind the methods: decoding, shared prefixes, and many answers in one pass."""
