"""How a text becomes features, and how the exported graph finds them."""
