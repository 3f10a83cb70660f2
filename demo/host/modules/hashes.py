"""Hashes of files, remembered."""

import hashlib

from modules.cache import cached_data_for_file


def calculate_sha256(filename):
    with open(filename, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256(filename, title, use_addnet_hash=False):
    return cached_data_for_file("hashes", title, filename, lambda: calculate_sha256(filename))
