"""Hashes of files, remembered."""

import hashlib

from modules.cache import cached_data_for_file


def calculate_sha256(filename):
    digest = hashlib.sha256()  # hashlib.file_digest came with Python 3.11
    with open(filename, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256(filename, title, use_addnet_hash=False):
    return cached_data_for_file("hashes", title, filename, lambda: calculate_sha256(filename))
