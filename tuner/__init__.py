"""Which batch size? A search for the largest batch that costs no accuracy."""
