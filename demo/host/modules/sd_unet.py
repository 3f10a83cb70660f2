"""Alternative UNets: there are none."""

current_unet = None


def get_unet_option(option=None):
    """The replacement for the UNet that is chosen in the settings; the demo has none to offer."""
    return
