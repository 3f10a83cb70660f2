"""Units of adapters for faces, from the photo to the UNet; who finds the faces is a stand-in."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from lib_ipadapter.attend.keyframes import Run
from lib_ipadapter.checkpoint.catalog import Catalog
from lib_ipadapter.encode import stored
from lib_ipadapter.encode.faces.align import aligned
from lib_ipadapter.encode.faces.finder import InsightFace
from lib_ipadapter.encode.picture import Picture
from lib_ipadapter.encode.stored import Stored
from lib_ipadapter.errors import IPAdapterError, PictureError
from lib_ipadapter.jobs.embeddings import embeddings_of, look_of
from lib_ipadapter.jobs.generation import prepare_generation
from lib_ipadapter.jobs.resources import Resources
from lib_ipadapter.presets.store import Store
from lib_ipadapter.unit import Unit
from tests.helpers.faces import LENGTH, Finder, face, similar
from tests.helpers.files import base64_of, half, picture, unit, write_adapter, write_encoder
from tests.helpers.folders import fill, of_folder
from tests.helpers.jobs import DEVICE, denoise, far, generation
from tests.helpers.tensors import close

KINDS = ("faceid", "faceid-lora", "faceid-plus", "instantid")


@pytest.fixture(scope="module")
def faces_folder(tmp_path_factory: pytest.TempPathFactory, unet) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    for kind in KINDS:
        write_adapter(folder / f"{kind}.safetensors", unet, kind)
    write_encoder(folder / "encoder.safetensors")
    return folder


@pytest.fixture
def finder() -> Finder:
    return Finder()


@pytest.fixture(scope="module")
def catalog(faces_folder: Path) -> Catalog:
    """Of that folder, which no test changes: looking into it starts a process."""
    made = Catalog([faces_folder], [])
    made.refresh()
    return made


@pytest.fixture
def resources(catalog: Catalog, finder: Finder) -> Resources:
    return Resources(catalog, faces=finder)


def settings(kind: str = "faceid", seeds: tuple[int, ...] = (0,), **more) -> dict:
    return unit(kind, seeds, keypoints_weight=0, **more) if kind == "instantid" else unit(kind, seeds, **more)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_acts_by_the_face_and_leaves(kind: str, unet, resources) -> None:
    plain = denoise(unet, None)
    one = denoise(unet, generation(unet, resources, settings(kind)))
    assert far(one, plain)
    assert far(denoise(unet, generation(unet, resources, settings(kind, (1,)))), one)
    assert torch.equal(denoise(unet, None), plain)


def test_each_kind_asks_the_pack_that_it_was_trained_with(unet, resources, finder) -> None:
    for kind in KINDS:
        generation(unet, resources, settings(kind, (KINDS.index(kind),)))
    assert [pack for _, pack in finder.asked] == ["buffalo_l", "buffalo_l", "buffalo_l", "antelopev2"]
    generation(unet, resources, settings("instantid", (9,), variant="faceid-portrait-unnorm"))
    assert finder.asked[-1][1] == "buffalo_l"


def test_a_photo_is_looked_at_once(unet, resources, finder) -> None:
    generation(unet, resources, settings("faceid", (0, 1, 0)), settings("faceid-plus", (1,)))
    assert len(finder.asked) == 2
    generation(unet, resources, settings("faceid-plus", (0,), weight=0.5))
    assert len(finder.asked) == 2


def test_ahead_of_a_job_a_piece_is_one_pictures_faces(unet, resources, finder) -> None:
    """Whoever waits behind them waits for one picture; what is encoded then is what the job encodes."""
    from lib_ipadapter.jobs.ahead import encodings

    given = settings("faceid-plus", (0, 1), negative_images=[base64_of(picture(2))])
    counts = []
    for piece in encodings(Unit.parse(given), resources, lambda: DEVICE):
        before = len(finder.asked)
        piece()
        counts.append(len(finder.asked) - before)
    assert counts == [1, 1, 1, 0, 0, 0, 0][: len(counts)] and len(counts) > 3
    told: list[str] = []
    prepare_generation([Unit.parse(given, 1)], unet, resources, DEVICE, progress=told.append)
    assert len(finder.asked) == 3 and not [text for text in told if text.startswith("encoding")]


@pytest.mark.parametrize("kind", KINDS)
def test_another_pack_finds_anew(kind: str, unet, resources, finder) -> None:
    """Files of a pack may be replaced, and a folder of packs chosen."""
    one = denoise(unet, generation(unet, resources, settings(kind)))
    finder.faces = lambda image: [face(77)]
    assert far(denoise(unet, generation(unet, resources, settings(kind))), one)
    assert len(finder.asked) == 2


def test_keys_and_values_are_of_the_pack_that_found_the_face(unet, resources, finder, monkeypatch) -> None:
    """A face is the same to the last bit, or it is not: what was computed of another pack's is not taken."""
    from lib_ipadapter.jobs import prepare

    made = []
    kept = prepare._prepared
    monkeypatch.setattr(prepare, "_prepared", lambda *given: (made.append(1), kept(*given))[1])
    for _ in range(2):
        generation(unet, resources, settings())
    assert len(made) == 1
    own = finder.faces
    finder.faces = lambda image: own(image)
    generation(unet, resources, settings())
    assert len(made) == 2


def test_that_a_photo_has_no_face_is_remembered(unet, resources, finder) -> None:
    finder.faces = lambda image: []
    for _ in range(2):
        with pytest.raises(PictureError, match="^IP-Adapter unit 1: the reference: no face was found"):
            generation(unet, resources, settings())
    assert len(finder.asked) == 1
    resources.unload()
    with pytest.raises(PictureError):
        generation(unet, resources, settings())
    assert len(finder.asked) == 2


def test_only_the_direction_of_the_face_counts_where_the_adapter_was_trained_so(unet, resources, finder) -> None:
    """A raw embedding twice as long is the same person; InstantID takes it as it is."""
    for kind, same in (("faceid", True), ("faceid-plus", True), ("instantid", False)):
        once = denoise(unet, generation(unet, resources, settings(kind, (5,))))
        own = finder.faces

        def twice(image, own=own):
            return [type(one)(one.box, one.landmarks, one.score, one.embedding * 2) for one in own(image)]

        finder.faces = twice
        resources.unload()
        again = denoise(unet, generation(unet, resources, settings(kind, (5,))))
        finder.faces = own
        resources.unload()
        assert close(once, again, 1e-6) is same, kind


def test_versions_1_and_2_of_plus_differ_and_the_scale_counts_for_version_2(unet, resources) -> None:
    v1 = denoise(unet, generation(unet, resources, settings("faceid-plus", variant="faceid-plus")))
    v2 = denoise(unet, generation(unet, resources, settings("faceid-plus", variant="faceid-plus-v2")))
    assert far(v1, v2)
    scaled = generation(unet, resources, settings("faceid-plus", variant="faceid-plus-v2", faceid_v2_weight=0.3))
    assert far(denoise(unet, scaled), v2)
    ignored = generation(unet, resources, settings("faceid-plus", variant="faceid-plus", faceid_v2_weight=0.3))
    assert torch.equal(denoise(unet, ignored), v1)
    assert "faceid_v2_weight has no effect" in ignored.plans[0].notes[0]


def test_a_variant_that_the_file_cannot_be_is_refused(unet, resources) -> None:
    says = "variant is “instantid”, and the file of adapter faceid-plus can be faceid-plus or faceid-plus-v2"
    with pytest.raises(IPAdapterError, match=says):
        generation(unet, resources, settings("faceid-plus", variant="instantid"))


def test_which_face_is_chosen_by_size_or_number(unet, resources, finder) -> None:
    left, large, right = face(1, 0, 10), face(2, 12, 30), face(3, 45, 12)
    finder.faces = lambda image: [left, large, right]
    group = generation(unet, resources, settings())
    both = [generation(unet, resources, settings(face_index=index)) for index in (2, 3)]
    assert torch.equal(denoise(unet, group), denoise(unet, both[0]))
    assert far(denoise(unet, group), denoise(unet, both[1]))
    with pytest.raises(IPAdapterError, match="^IP-Adapter unit 1: the reference: face_index is 4, and there are 3"):
        generation(unet, resources, settings(face_index=4))


def test_no_face_is_told_with_the_unit_and_the_photo(unet, resources, finder) -> None:
    one = face(1)
    finder.faces = lambda image: [one] if len(finder.asked) == 1 else []
    with pytest.raises(IPAdapterError, match=r"^IP-Adapter unit 2: images\[1\]: no face was found"):
        generation(unet, resources, {"enabled": False}, settings(seeds=(0, 1)))


def test_the_mask_and_the_side_that_is_cropped_come_before_the_face_is_looked_for(unet, resources, finder) -> None:
    wide = base64_of(picture(3, (90, 30)))
    masked = {"image": wide, "mask": base64_of(half("left"))}
    generation(unet, resources, {"model": "faceid", "images": [masked]})
    assert finder.asked[-1][0].size == (90, 30)
    assert finder.asked[-1][0].getpixel((80, 10)) == (127, 127, 127) != finder.asked[-1][0].getpixel((5, 10))
    generation(unet, resources, {"model": "faceid", "images": [wide], "crop": "right"})
    assert finder.asked[-1][0].size == (30, 30)
    assert finder.asked[-1][0].getpixel((29, 3)) == picture(3, (90, 30)).getpixel((89, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_two_photos_that_are_one_are_one(kind: str, unet, resources) -> None:
    one = denoise(unet, generation(unet, resources, settings(kind)))
    for combine in ("concat", "average"):
        two = denoise(unet, generation(unet, resources, settings(kind, (0, 0), combine=combine)))
        assert close(one, two, 1e-5), combine
    other = denoise(unet, generation(unet, resources, settings(kind, (0, 1), combine="average")))
    assert far(one, other)


def test_the_mean_of_two_photos_is_as_long_as_a_face(unet, resources, finder) -> None:
    """Of unit vectors the mean is shorter, which the adapter has never seen: it is made one again."""
    first = face(1)
    second = type(first)(first.box, first.landmarks, 0.9, similar(first.embedding, 0.6))
    middle = type(first)(first.box, first.landmarks, 0.9, (first.embedding + second.embedding) * 3)
    ones = iter([first, second, middle])
    finder.faces = lambda image: [next(ones)]
    mixed = denoise(unet, generation(unet, resources, settings(seeds=(0, 1), combine="average")))
    direct = denoise(unet, generation(unet, resources, settings(seeds=(2,))))
    assert close(mixed, direct, 1e-5)


def test_photos_of_two_people_are_told_and_not_refused(unet, resources, finder) -> None:
    first = face(1)
    for share, told in ((0.1, True), (0.5, False)):
        second = type(first)(first.box, first.landmarks, 0.9, similar(first.embedding, share))
        ones = iter([first, second])
        finder.faces = lambda image, ones=ones: [next(ones)]
        resources.unload()
        notes = generation(unet, resources, settings(seeds=(0, 1))).plans[0].notes
        assert any("photos 1 and 2 hardly show one person (similarity 0.10)" in note for note in notes) is told


@pytest.mark.parametrize("kind", KINDS)
def test_two_people_may_stand_in_two_places(kind: str, unet, resources) -> None:
    """Nobody is told that they are two; each is where a unit of its own would put it, the files' LoRA there once."""
    sides = [base64_of(half(side)) for side in ("left", "right")]
    one = settings(kind, (0, 5))
    one["images"] = [{"image": image, "region": side} for image, side in zip(one["images"], sides, strict=True)]
    several = [settings(kind, (seed,), region_mask=side) for seed, side in zip((0, 5), sides, strict=True)]
    job = generation(unet, resources, one)
    assert not any("hardly show one person" in note for note in job.plans[0].notes)
    assert close(denoise(unet, job), denoise(unet, generation(unet, resources, *several)), 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_one_person_may_become_another_over_time(kind: str, unet, resources) -> None:
    """Nobody is told that they are two; the files' LoRA is there once."""
    two = settings(kind, (0, 5), noise=0.3)
    two["images"] = [{"image": image, "at": at} for image, at in zip(two["images"], (0, 1), strict=True)]
    job = generation(unet, resources, two)
    assert job.plans[0].notes == () or kind == "faceid-plus"
    made = denoise(unet, job, pictures=3, run=Run(0, 3))
    for frame, seed in ((0, 0), (2, 5)):
        alone = denoise(unet, generation(unet, resources, settings(kind, (seed,), noise=0.3)), pictures=3)
        assert close(made[[frame, frame + 3]], alone[[frame, frame + 3]], 1e-5)
        assert far(made[[1, 4]], alone[[1, 4]])


def test_what_had_to_be_done_for_a_face_is_a_note(unet, resources, finder) -> None:
    finder.how = "after a turn by 90°"
    assert (
        "the reference: the face was found after a turn by 90°."
        in generation(unet, resources, settings()).plans[0].notes
    )


@pytest.mark.parametrize("kind", KINDS)
def test_negative_photos_and_noise_change_the_negative_side_alone(kind: str, unet, resources) -> None:
    plain = denoise(unet, generation(unet, resources, settings(kind)))
    for change in ({"negative_images": [base64_of(picture(7))]}, {"noise": 0.5}):
        other = denoise(unet, generation(unet, resources, settings(kind, **change)))
        assert torch.equal(plain[0], other[0]) and far(plain[1:], other[1:]), change


def test_each_picture_of_a_batch_may_have_its_own_person(unet, resources) -> None:
    job = generation(unet, resources, settings(seeds=(0, 1), batch="per image"))
    both = denoise(unet, job, pictures=2)
    swapped = denoise(unet, generation(unet, resources, settings(seeds=(1, 0), batch="per image")), pictures=2)
    assert far(both[0], swapped[0]) and far(both[1], swapped[1])


# Embeddings in the place of photos


def file_of(parts: list[dict], weights: list[float], made_by: dict) -> str:
    return base64.b64encode(stored.write(parts, weights, made_by)).decode()


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_the_photos_they_were_made_of(kind: str, unet, resources) -> None:
    photos = settings(kind, (0, 1), combine="average")
    file = base64.b64encode(embeddings_of(Unit.parse(photos), resources, DEVICE)).decode()
    kept = {**photos, "images": [{"embeddings": file}]}
    with_photos = denoise(unet, generation(unet, resources, photos))
    assert torch.equal(denoise(unet, generation(unet, resources, kept)), with_photos)


def test_a_face_works_without_anybody_who_finds_one(unet, faces_folder) -> None:
    catalog = Catalog([faces_folder], [])
    catalog.refresh()
    alone = Resources(catalog)
    file = file_of([{"face": face(1).embedding[None]}], [1.0], {"face": "buffalo_l"})
    kept = {"model": "faceid", "images": [{"embeddings": file}]}
    assert far(denoise(unet, generation(unet, alone, kept)), denoise(unet, None))
    with pytest.raises(IPAdapterError, match="faces cannot be found here"):
        generation(unet, alone, settings())


@pytest.mark.parametrize(
    ("made_by", "parts", "says"),
    [
        (
            {"face": "antelopev2"},
            {"face": (1, 512)},
            "hold face embeddings of 'antelopev2', and adapter faceid takes face",
        ),
        (
            {"pooled": "ViT-H-14"},
            {"pooled": (1, 1024)},
            "hold pooled embeddings of 'ViT-H-14', and adapter faceid takes",
        ),
        ({"face": "buffalo_l"}, {"face": (1, 128)}, "128 numbers, where the adapter takes 512"),
    ],
)
def test_embeddings_of_another_kind_are_refused(made_by: dict, parts: dict, says: str, unet, resources) -> None:
    tensors = {name: torch.ones(shape) for name, shape in parts.items()}
    with pytest.raises(IPAdapterError, match=f"^IP-Adapter unit 1: .*{says}"):
        generation(unet, resources, {"model": "faceid", "images": [{"embeddings": file_of([tensors], [1.0], made_by)}]})


def test_the_length_of_the_stand_ins_faces_is_recognitions() -> None:
    assert F.normalize(face(1).embedding, dim=0).norm() == pytest.approx(1)
    assert face(1).embedding.norm() == pytest.approx(LENGTH)


def test_stored_references_are_as_many_as_they_were(unet, resources) -> None:
    """Two photos in one file, in a batch one for each picture; with the file's weights times the item's."""
    photos = settings(seeds=(0, 1), batch="per image")
    file = base64.b64encode(embeddings_of(Unit.parse(photos), resources, DEVICE)).decode()
    kept = {"model": "faceid", "images": [{"embeddings": file}], "batch": "per image"}
    want = denoise(unet, generation(unet, resources, photos), pictures=2)
    job = generation(unet, resources, kept)
    assert torch.equal(denoise(unet, job, pictures=2), want)
    assert len(job.plans[0].references) == 1  # what parameters and presets write down
    weighted = {**kept, "images": [{"embeddings": file, "weight": 0.5}]}
    half_weight = settings(seeds=(0, 1), batch="per image", weight=0.5)
    assert close(
        denoise(unet, generation(unet, resources, weighted), pictures=2),
        denoise(unet, generation(unet, resources, half_weight), pictures=2), 1e-5,
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_look_of_a_face_is_that_face(kind: str, unet, resources) -> None:
    want = generation(unet, resources, settings(kind, (0,)))
    file = look_of(Unit.parse(settings(kind, (0,))), "who", lambda seen: b"", resources, DEVICE)
    look = {**settings(kind, (0,)), "images": [{"embeddings": base64.b64encode(file).decode()}]}
    got = generation(unet, resources, look)
    for one, other in zip(want.prompts[0][1].kv.keys, got.prompts[0][1].kv.keys, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(denoise(unet, got), denoise(unet, want))


@pytest.mark.parametrize("kind", KINDS)
def test_a_look_of_a_face_shows_that_face(kind: str, resources) -> None:
    """As it was cut out: of what stands around it, nothing is in the look."""
    seen: list = []
    look_of(Unit.parse(settings(kind, (0,))), "who", lambda images: seen.extend(images) or b"", resources, DEVICE)
    (cut,) = seen
    planned = Picture.of(settings(kind, (0,))["images"][0])
    assert cut.size == (224, 224) and planned.image.size != cut.size
    (found,) = resources.faces.find(planned.image, "buffalo_l").faces
    assert list(cut.getdata()) == list(aligned(planned.image, found.landmarks, 224).getdata())


@pytest.mark.parametrize("more", [{"combine": "average"}, {"noise": 0.4}, {"negative_images": [base64_of(picture(3))]}])
@pytest.mark.parametrize("kind", ["faceid", "instantid"])
def test_a_look_of_several_faces_is_what_the_unit_makes_of_them(kind: str, more: dict, unet, resources) -> None:
    photos = settings(kind, (0, 1), **more)
    file = look_of(Unit.parse(photos), "who", lambda seen: b"", resources, DEVICE)
    look = {**settings(kind), "images": [{"embeddings": base64.b64encode(file).decode()}]}
    assert close(
        denoise(unet, generation(unet, resources, look)), denoise(unet, generation(unet, resources, photos)), 1e-5
    )
    lengths = [parts["face"].norm() for parts in stored.read(file).references]
    assert all(length > 2 for length in lengths)  # as recognition makes them, not of length 1


def test_embeddings_are_kept_in_presets_as_pictures_are(tmp_path, resources) -> None:
    file = base64.b64encode(embeddings_of(Unit.parse(settings()), resources, DEVICE)).decode()
    store = Store(tmp_path)
    store.save("person", [{"model": "faceid", "images": [{"embeddings": file, "weight": 0.5}]}])
    archive = store.export()
    other = Store(tmp_path / "other")
    other.import_(archive)
    (loaded,) = other.load_base64("person")
    (item,) = Unit.parse(loaded).references
    assert item.weight == 0.5
    kept = Stored.of(Picture.of(item.image))
    assert kept is not None and kept == Stored.of(Picture.of(file))
    assert kept.made_by == {"face": "buffalo_l"}


def test_a_carrier_that_was_saved_with_losses_is_refused(resources, unet) -> None:
    file = embeddings_of(Unit.parse(settings()), resources, DEVICE)
    blurred = Picture.of(file).image
    blurred.putpixel((20, 20), (1, 2, 3))
    with pytest.raises(IPAdapterError, match="the reference: The picture has carried embeddings and was changed"):
        generation(unet, resources, {"model": "faceid", "images": [base64_of(blurred)]})


def spoilt(name: str) -> bytes:
    """Files of embeddings that are none."""
    from safetensors.torch import save

    good = {"0.face": torch.ones(1, 512)}
    head = {"ip-adapter": "embeddings 1", "face": "buffalo_l"}
    return {
        "NaN": lambda: save({"0.face": torch.full((1, 512), float("nan"))}, head),
        "another file": lambda: save(good, {"format": "pt"}),
        "a newer one": lambda: save(good, {**head, "ip-adapter": "embeddings 3"}),
        "a number missing": lambda: save({"1.face": torch.ones(1, 512)}, head),
        "an unknown part": lambda: save({**good, "0.voice": torch.ones(1, 512)}, head),
        "another form": lambda: save({"0.face": torch.ones(512)}, head),
        "whole numbers": lambda: save({"0.face": torch.ones(1, 512, dtype=torch.int32)}, head),
        "no weight": lambda: save(good, {**head, "weights": "[]"}),
        "an infinite weight": lambda: save(good, {**head, "weights": "[Infinity]"}),
        "two widths": lambda: save({**good, "1.face": torch.ones(1, 256)}, head),
        "many rows": lambda: save({"0.face": torch.ones(2000, 512, dtype=torch.float16)}, head),
        "two names": lambda: save({**good, "00.face": torch.ones(1, 512)}, head),
        "infinite as fp32": lambda: save({"0.face": torch.full((1, 512), 1e300, dtype=torch.float64)}, head),
        "zeros": lambda: save({"0.face": torch.zeros(1, 512)}, head),
        "cut short": lambda: save(good, head)[:-100],
        "a long header": lambda: (10**6).to_bytes(8, "little") + b"{" + b" " * 2 * 10**6,
        "no header": lambda: (20).to_bytes(8, "little") + b"{" + b"!" * 40,
    }[name]()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("NaN", "hold numbers that are not finite"),
        ("infinite as fp32", "hold numbers that are not finite"),
        ("zeros", "hold a face of zeros"),
        ("a newer one", "are of a newer version"),
        *((name, "no file of this extension") for name in (
            "another file", "a number missing", "an unknown part", "another form", "whole numbers", "no weight",
            "an infinite weight", "two widths", "many rows", "two names", "cut short", "a long header", "no header",
        )),
    ],
)  # fmt: skip
def test_embeddings_that_are_none_are_refused(name: str, says: str, unet, resources) -> None:
    item = {"embeddings": base64.b64encode(spoilt(name)).decode()}
    with pytest.raises(IPAdapterError, match=f"^IP-Adapter unit 1: the reference: The embeddings .*{says}"):
        generation(unet, resources, {"model": "faceid", "images": [item]})


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ({"embeddings": "x", "image": "y"}, "embeddings are given beside a picture"),
        ({"embeddings": "x", "controlnet": 1}, "embeddings are given beside a picture"),
        ({"embeddings": 5}, "embeddings is no file of POST /ip-adapter/embeddings"),
        ({"embeddings": base64_of(picture())}, "embeddings is no file of POST /ip-adapter/embeddings"),
    ],
)
def test_what_is_given_as_embeddings_is_a_file_of_them(item: dict, says: str) -> None:
    with pytest.raises(IPAdapterError, match=says):
        Unit.parse({"model": "faceid", "images": [item]})


# The LoRA inside the file


@pytest.mark.parametrize("kind", ["faceid-lora", "faceid-plus"])
def test_the_lora_acts_by_itself_and_by_its_strength(kind: str, unet, resources) -> None:
    plain = denoise(unet, None)
    without = denoise(unet, generation(unet, resources, settings(kind, lora_strength=0)))
    half_way = denoise(unet, generation(unet, resources, settings(kind, lora_strength=0.5)))
    whole = denoise(unet, generation(unet, resources, settings(kind)))
    assert far(without, half_way) and far(half_way, whole)
    assert torch.equal(denoise(unet, generation(unet, resources, settings(kind, weight=0))), plain)
    assert torch.equal(denoise(unet, None), plain)


def test_two_units_of_one_file_have_its_lora_once(unet, resources) -> None:
    whole = denoise(unet, generation(unet, resources, settings("faceid-lora", weight=0.8)))
    half_unit = settings("faceid-lora", weight=0.4)
    assert close(denoise(unet, generation(unet, resources, half_unit, half_unit)), whole, 1e-5)


def test_a_face_lora_in_the_prompt_takes_the_place_of_the_files_own(unet, resources) -> None:
    without = denoise(unet, generation(unet, resources, settings("faceid-lora", lora_strength=0)))
    job = generation(unet, resources, settings("faceid-lora"), prompt_lora="ip-adapter-faceid_sd15_lora")
    assert torch.equal(denoise(unet, job), without)
    assert job.plans[0].notes == (
        "the prompt names the LoRA ip-adapter-faceid_sd15_lora, so the one inside faceid-lora is left out.",
    )


def test_a_pose_is_a_picture_with_a_face_of_its_own(unet, resources, finder) -> None:
    """Which face, and which part, is said of the references; embeddings show no pose."""
    file = base64.b64encode(embeddings_of(Unit.parse(settings()), resources, DEVICE)).decode()
    unit_ = {**settings("instantid"), "keypoints_image": file}
    with pytest.raises(IPAdapterError, match="keypoints_image is a file of embeddings, which shows no pose"):
        generation(unet, resources, unit_)
    group = [face(1, 0, 20), face(2, 30, 20)]
    finder.faces = lambda image: group if len(finder.asked) % 2 else [face(3)]
    resources.unload()
    finder.asked.clear()
    wide = base64_of(picture(8, (90, 30)))
    job = generation(unet, resources, {**settings("instantid", face_index=2, crop="left"), "keypoints_image": wide})
    assert job is not None
    assert finder.asked[-1][0].size == (90, 30)


def test_a_named_encoder_counts_for_embeddings_too(unet, resources) -> None:
    """The same unit that makes embeddings takes them."""
    named = settings("faceid-plus", encoder="encoder")
    file = base64.b64encode(embeddings_of(Unit.parse(named), resources, DEVICE)).decode()
    kept = {**named, "images": [{"embeddings": file}]}
    assert far(denoise(unet, generation(unet, resources, kept)), denoise(unet, None))


def test_weights_of_weights_are_read_again(unet, resources) -> None:
    made = {"model": "faceid", "images": [{"image": base64_of(picture(0)), "weight": 2.5}]}
    once = base64.b64encode(embeddings_of(Unit.parse(made), resources, DEVICE)).decode()
    twice = {"model": "faceid", "images": [{"embeddings": once, "weight": 2.5}]}
    file = base64.b64encode(embeddings_of(Unit.parse(twice), resources, DEVICE)).decode()
    last = {"model": "faceid", "images": [{"embeddings": file}]}
    assert torch.equal(
        denoise(unet, generation(unet, resources, last)), denoise(unet, generation(unet, resources, twice))
    )


def test_embeddings_are_no_mask(unet, resources) -> None:
    file = base64.b64encode(embeddings_of(Unit.parse(settings()), resources, DEVICE)).decode()
    for unit_ in (
        {**settings(), "region_mask": file},
        {"model": "faceid", "images": [{"image": base64_of(picture(0)), "mask": file}]},
    ):
        with pytest.raises(IPAdapterError, match="The mask is a file of embeddings"):
            generation(unet, resources, unit_)


def test_a_preset_of_embeddings_holds_them_as_a_picture(tmp_path, resources) -> None:
    from tests.helpers.presets import stored as stored_pictures

    file = base64.b64encode(embeddings_of(Unit.parse(settings()), resources, DEVICE)).decode()
    store = Store(tmp_path)
    store.save("person", [{"model": "faceid", "images": [{"embeddings": file}]}])
    assert len(stored_pictures(store)) == 1


@pytest.mark.parametrize("text", ["9" * 5000, "0", "101", "-1", "1.5"])
def test_a_face_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(IPAdapterError, match="face_index is .*: give 'largest', or the face's number"):
        Unit.parse({**settings(), "face_index": text})


def test_an_adapter_for_another_recognition_takes_its_embeddings_alone(tmp_path, unet) -> None:
    """Its file's metadata name what it was trained with, which is no pack."""
    write_adapter(tmp_path / "plain.safetensors", unet, "faceid-lora")
    save_file(load_file(tmp_path / "plain.safetensors"), tmp_path / "own.safetensors", {"image_encoder": "my faces"})
    catalog = Catalog([tmp_path], [])
    catalog.refresh()
    own = Resources(catalog, faces=InsightFace(lambda: [tmp_path], tmp_path, tmp_path))
    file = file_of([{"face": face(1).embedding[None]}], [1.0], {"face": "my faces"})
    kept = {"model": "own", "images": [{"embeddings": file}]}
    assert far(denoise(unet, generation(unet, own, kept)), denoise(unet, None))
    with pytest.raises(IPAdapterError, match="trained with the face recognition my faces, which is not to be had here"):
        generation(unet, own, {"model": "own", "images": [base64_of(picture(0))]})


def test_a_job_inside_whose_prompt_names_a_face_lora_goes_without_the_files_own(unet, resources) -> None:
    without = denoise(unet, generation(unet, resources, settings("faceid-lora", lora_strength=0)))
    job = generation(unet, resources, settings("faceid-lora"))
    with_its_own = denoise(unet, job)
    assert torch.equal(denoise(unet, job.inside("ip-adapter-faceid_sd15_lora")), without)
    assert torch.equal(denoise(unet, job.inside()), with_its_own) and far(with_its_own, without)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_photos_is_these_photos(kind: str, unet, resources, finder, tmp_path, monkeypatch) -> None:
    """Averaged as they are, and walked one for each picture, however many."""
    folder = fill(tmp_path / "refs", 0, 1, 2)
    more = {"keypoints_weight": 0} if kind == "instantid" else {}
    average = {"model": kind, "combine": "average", "noise": 0.2, **more}
    job = prepare_generation([of_folder(folder, **average)], unet, resources, DEVICE)
    assert close(denoise(unet, job), denoise(unet, generation(unet, resources, unit(seeds=(0, 1, 2), **average))), 1e-4)
    singles = [generation(unet, resources, settings(kind, (seed,), noise=0.2)) for seed in range(3)]
    for bound in (64, 2):
        monkeypatch.setattr("lib_ipadapter.jobs.plans.MAX_REFERENCES", bound)
        fresh = Resources(resources.catalog, faces=finder)
        walk = of_folder(folder, model=kind, batch="per image", noise=0.2, **more)
        job = prepare_generation([walk], unet, fresh, DEVICE)
        for i, one in enumerate(singles):
            assert close(denoise(unet, job, first_picture=i), denoise(unet, one), 1e-4), (bound, i)
    finder.faces = lambda image: []
    fill(tmp_path / "other", 7, 8)
    with pytest.raises(PictureError, match=r"the reference: '0\.png': "):
        prepare_generation([of_folder(tmp_path / "other", **average)], unet, resources, DEVICE)
