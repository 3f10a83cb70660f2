"""Prompts beside the stand-ins of other extensions."""

X, Y = "a cat", "blurry"
TWICE = {"prompt": f"{X} BREAK {X}"}  # the same prompt, in twice as many tokens: conditional rows are called apart
APART = {"override_settings": {"batch_cond_uncond": False}}
