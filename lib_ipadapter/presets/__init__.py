"""Kept settings: presets and the units of past generations, with their references. Knows no WebUI."""
