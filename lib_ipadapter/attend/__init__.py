"""Image tokens -> the UNet: which layers there are, which rows a call holds, and the two hooks of each layer."""
