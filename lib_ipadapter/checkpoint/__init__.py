"""Files on disk -> what they are (catalog, identify) -> their tensors (load). Nothing is imported here: it is cheap."""
