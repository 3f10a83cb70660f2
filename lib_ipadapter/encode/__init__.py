"""Pictures -> embeddings: decode and crop references, run the image encoder, combine and remember the results."""
