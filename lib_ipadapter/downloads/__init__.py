"""Published adapters and image encoders are fetched here, where somebody asks for them; nothing is without that."""
