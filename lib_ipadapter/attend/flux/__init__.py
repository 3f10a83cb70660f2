"""Image prompts in FLUX: Redux behind the text, and XLabs' attention beside each double block."""
