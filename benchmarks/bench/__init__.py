"""What the adapter costs, keeps and withstands, as one table.

    make bench [WEBUI=URL or folder]
    python -m benchmarks.bench [--only step encode …] [--minutes 40] [--webui URL or folder] [--write]

CPU figures always, on UNets and image encoders of the published sizes with random weights, which cost what trained ones
cost; where there is a CUDA card, ``python -m benchmarks.gpu`` runs after them. With a WebUI, whole requests there as
well, beside sd-webui-controlnet's where it is installed. ``--small`` runs every section on narrow models, which tests
the run and measures nothing.
"""
