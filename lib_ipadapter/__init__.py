"""IP-Adapter for the AUTOMATIC1111 WebUI: a reference image as a second prompt.

Importing this package costs nothing: the heavy libraries load when a unit first needs them.

Forge and reForge ship a built-in package of the same name; extending ``__path__`` keeps its modules importable
beside ours.
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
__version__ = "0.1.0"
