"""What the adapter costs and changes on a CUDA card, in one run that needs torch and this tree alone.

    python -m benchmarks.gpu [--only steps modes …] [--budget 480] [--write]

UNets and image encoder are descriptions of our own in their published sizes, with random weights made on the device:
they cost what trained ones cost. ``--device cpu --small`` runs every section on narrow models, which tests the run
and measures nothing.
"""
