"""A small trained family (checkpoint, image encoder, two adapters) for a world of drawn shapes; see the model card."""
