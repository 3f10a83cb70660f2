"""Command-line flags, read by the WebUI before it starts."""

import argparse


def preload(parser: argparse.ArgumentParser) -> None:
    for flag, what in (
        ("--ip-adapter-dir", "adapters and image encoders"),
        ("--ip-adapter-encoder-dir", "image encoders"),
    ):
        parser.add_argument(
            flag, action="append", default=[], metavar="FOLDER",
            help=f"further folder to search for IP-Adapter's {what}; may be given more than once",
        )  # fmt: skip
    parser.add_argument(
        "--ip-adapter-install-faces", action="store_true",
        help="install face analysis (insightface) for IP-Adapter, into a folder of its own, where it is missing",
    )  # fmt: skip
