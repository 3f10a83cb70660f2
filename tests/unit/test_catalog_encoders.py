"""The image encoder that an adapter needs, and the text tower that an encoder lacks."""

from __future__ import annotations

import pytest
import torch

from lib_ipadapter.checkpoint.identify import identify
from lib_ipadapter.errors import CheckpointError
from tests.helpers.checkpoint_files import SMALL, WIDE, listed, save, write
from tests.helpers.checkpoint_shapes import open_clip_tower, open_clip_words, transformers_tower, transformers_words


def test_the_encoder_is_chosen_by_width_and_the_published_one_first(tmp_path):
    write(tmp_path / "a odd.safetensors", transformers_tower(1280, 2, 64, 14, 257, 1024))
    write(tmp_path / "b H.safetensors", transformers_tower(1280, 32, 5120, 14, 257, 1024))
    write(tmp_path / "c H too.safetensors", open_clip_tower(1280, 32, 5120, 14, 257, 1024))
    write(tmp_path / "d G.safetensors", open_clip_tower(1664, 48, 8192, 14, 257, 1280))
    write(tmp_path / "e L336.safetensors", transformers_tower(1024, 24, 4096, 14, 577, 768))
    write(tmp_path / "f L.safetensors", transformers_tower(1024, 24, 4096, 14, 257, 768))
    write(tmp_path / "g small.safetensors", transformers_tower(48, 2, 64, 4, 5, 24))
    catalog = listed(encoders=[tmp_path])
    chosen = {
        ("pooled", 1024): "b H",
        ("penultimate", 1280): "b H",
        ("pooled", 1280): "d G",
        ("penultimate", 1664): "d G",
        ("pooled", 768): "f L",
        ("penultimate", 1024): "f L",
        ("pooled", 24): "g small",
        ("penultimate", 48): "g small",
    }
    for (source, width), name in chosen.items():
        assert catalog.find_encoder(width, source).name == name
    (tmp_path / "b H.safetensors").unlink()
    (tmp_path / "c H too.safetensors").unlink()
    catalog.refresh()
    assert catalog.find_encoder(1024, "pooled").name == "a odd"  # it fits, though nobody published it


def test_an_adapter_that_names_its_encoder_gets_that_one_alone(tmp_path):
    """Two encoders of one width are not one encoder: taking the other would make noise that looks like an effect."""
    small = transformers_tower(48, 2, 64, 4, 5, 1024)
    write(tmp_path / "H.safetensors", transformers_tower(1280, 32, 5120, 14, 257, 1024))
    write(tmp_path / "adapter.safetensors", WIDE)
    write(tmp_path / "own.safetensors", WIDE, metadata={"image_encoder": "small one"})
    write(tmp_path / "odd.safetensors", WIDE, metadata={"image_encoder": 5})
    catalog, memory = listed(tmp_path), tmp_path / "memory.json"
    assert catalog.find("adapter").spec.image_encoder is None
    with pytest.raises(CheckpointError, match="odd cannot be used. This file's header is damaged"):  # no text at all
        catalog.find("odd")
    assert catalog.find("own").spec.image_encoder == "small one"
    with pytest.raises(CheckpointError, match="encoder 'small one', which the adapter was trained with, is missing"):
        catalog.find_encoder(1024, "pooled", trained_with="small one")
    write(tmp_path / "A.safetensors", small, metadata={"image_encoder": "small one"})
    for _ in range(2):  # read from the files, then from memory
        catalog = listed(tmp_path, memory=memory)
        assert catalog.find_encoder(1024, "pooled", trained_with="small one").name == "A"
        assert catalog.find_encoder(1024, "pooled").name == "H"
    (tmp_path / "H.safetensors").unlink()
    with pytest.raises(CheckpointError, match="ViT-H-14 is missing"):
        listed(tmp_path).find_encoder(1024, "pooled")


def test_a_missing_encoder_is_named_with_its_file_and_folder(tmp_path):
    catalog = listed(tmp_path / "adapters", encoders=[tmp_path / "clip_vision", tmp_path / "more"])
    with pytest.raises(CheckpointError) as error:
        catalog.find_encoder(1280, "penultimate")
    assert error.value.detail == (
        "the image encoder ViT-H-14 is missing (penultimate embeddings 1280 wide): download "
        f"models/image_encoder/model.safetensors from h94/IP-Adapter, put it into {tmp_path / 'clip_vision'} as "
        "CLIP-ViT-H-14.safetensors, and refresh the list of models."
    )
    with pytest.raises(CheckpointError, match="ViT-bigG-14 .*sdxl_models/image_encoder.*put it into .*/clip_vision as"):
        catalog.find_encoder(1280, "pooled")
    with pytest.raises(CheckpointError, match="pooled embeddings 33 wide, and no published one does: put the encoder"):
        catalog.find_encoder(33, "pooled")
    with pytest.raises(CheckpointError, match=f"put it into {tmp_path / 'adapters'} as"):
        listed(tmp_path / "adapters").find_encoder(768, "pooled")


def test_an_encoder_with_its_words_is_its_own_text_tower(tmp_path):
    save(tmp_path / "a.safetensors", SMALL | transformers_words(64, 1, 100, 24), 1)
    save(tmp_path / "b.safetensors", SMALL | transformers_words(64, 1, 100, 24), 1)
    for _ in range(2):  # read from the files, then from memory
        catalog = listed(encoders=[tmp_path], memory=tmp_path / "memory.json")
        for entry in catalog.encoders:
            assert entry.spec == identify(SMALL | transformers_words(64, 1, 100, 24))
            assert entry.spec.text is not None
            assert catalog.find_text_tower(entry) == entry


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_another_file_of_the_same_image_tower_lends_its_text_tower(tmp_path, ending):
    save(tmp_path / "alone.safetensors", SMALL, 1, dtype=torch.float16)
    whole = open_clip_tower(48, 2, 64, 4, 5, 24) | open_clip_words(64, 1, 100, 24)
    save(tmp_path / f"a other training.{ending}", whole, 2)
    narrow = transformers_tower(48, 2, 64, 4, 5, 8) | transformers_words(64, 1, 9, 8)
    save(tmp_path / "b other width.safetensors", narrow, 1)
    save(tmp_path / "c other name.safetensors", SMALL | transformers_words(64, 1, 100, 24), 1, {"image_encoder": "x"})
    catalog = listed(encoders=[tmp_path])
    (alone,) = (entry for entry in catalog.encoders if entry.name == "alone")
    with pytest.raises(CheckpointError, match="alone has no text encoder"):
        catalog.find_text_tower(alone)
    save(tmp_path / f"z whole.{ending}", whole, 1)
    catalog.refresh()
    assert catalog.find_text_tower(alone).name == "z whole"
    (tmp_path / f"z whole.{ending}").write_bytes(b"")  # changed since it was listed
    with pytest.raises(CheckpointError, match="alone has no text encoder"):
        catalog.find_text_tower(alone)


def test_a_named_encoder_takes_words_of_its_name_alone(tmp_path):
    save(tmp_path / "alone.safetensors", SMALL, 1, {"image_encoder": "x"})
    save(tmp_path / "b.safetensors", SMALL | transformers_words(64, 1, 100, 24), 1)
    catalog = listed(encoders=[tmp_path])
    (alone,) = (entry for entry in catalog.encoders if entry.name == "alone")
    with pytest.raises(CheckpointError, match="download the whole CLIP model that alone was taken from, put it into"):
        catalog.find_text_tower(alone)
    save(tmp_path / "c.safetensors", SMALL | transformers_words(64, 1, 100, 24), 1, {"image_encoder": "x"})
    catalog.refresh()
    assert catalog.find_text_tower(alone).name == "c"


def test_a_missing_text_tower_is_named_with_its_file_and_folder(tmp_path):
    write(tmp_path / "H.safetensors", transformers_tower(1280, 32, 5120, 14, 257, 1024))
    write(tmp_path / "G.safetensors", transformers_tower(1664, 48, 8192, 14, 257, 1280))
    write(tmp_path / "L.safetensors", transformers_tower(1024, 24, 4096, 14, 257, 768))
    write(tmp_path / "small.safetensors", SMALL)
    catalog = listed(encoders=[tmp_path])
    entries = {entry.name: entry for entry in catalog.encoders}
    with pytest.raises(CheckpointError) as error:
        catalog.find_text_tower(entries["H"])
    assert error.value.detail == (
        "the image encoder H has no text encoder, which gives words their meaning: download "
        f"open_clip_pytorch_model.bin from laion/CLIP-ViT-H-14-laion2B-s32B-b79K, put it into {tmp_path}, and refresh "
        "the list of models."
    )
    for name, file in (("G", "laion/CLIP-ViT-bigG-14"), ("L", "openai/clip-vit-large"), ("small", "the whole CLIP")):
        with pytest.raises(CheckpointError, match=f"{name} has no text encoder.*{file}"):
            catalog.find_text_tower(entries[name])
