"""Catalogues: thousands of requests, from a file, over many WebUIs, with Ray.

    python -m lib_ipadapter.batch run JOBS --out FOLDER

Nothing else of the extension imports this room, and it knows the WebUI by its API alone. Ray and pyarrow live in an
environment of their own (``requirements-batch.txt``), and are imported where they are used: the logic runs without.
"""
