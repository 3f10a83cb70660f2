"""What a person sees: the accordion with its presets, controls and references."""
