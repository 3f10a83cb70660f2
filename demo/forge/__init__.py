"""The miniature host's second face: what Forge does otherwise than the WebUI.

``face.put_on`` puts it over the modules in ``demo/host``, and what it returns takes it off again.
"""
