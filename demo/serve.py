"""The page with the extension's panel, and the API, on this computer."""

from __future__ import annotations

import argparse
import time

from demo import files, host_start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=7861)
    parser.add_argument("--device", default="cpu")
    arguments, flags = parser.parse_known_args()
    from demo.start import REPOSITORY

    data = REPOSITORY / "demo" / "data"
    files.write_files(data / "models")
    host_start(data_dir=data, cmd_args=flags, keep_options=True, device=arguments.device, port=arguments.port)
    print(f"http://127.0.0.1:{arguments.port}", flush=True)
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        print("stopped")


if __name__ == "__main__":
    main()
