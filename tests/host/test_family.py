"""The demo family's networks and training, on a recipe so small that nothing is learnt."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import mse_loss

from demo.family import bench as benches
from demo.family import compose, face_stages, networks, quality, train, world
from lib_ipadapter.attend.inject import Injection
from lib_ipadapter.attend.layers import cross_attention_layers
from lib_ipadapter.attend.prompt import ImagePrompt, KeysValues
from lib_ipadapter.attend.rows import Row
from lib_ipadapter.checkpoint.containers import read_metadata, read_shapes
from lib_ipadapter.checkpoint.identify import identify
from lib_ipadapter.checkpoint.load import load_encoder_state
from lib_ipadapter.encode.clip_image import ImageEncoder
from lib_ipadapter.encode.clip_text import TextTower
from tests.helpers.tensors import draw, randomise

MICRO = benches.Recipe(
    {stage: benches.Plan(2, 4, 1e-3, share=2) for stage in train.STAGES},
    captions=4,
    pictures=8,
    text_layers=1,
    ema=0.5,
    people=42,
)


class Bench(benches.Bench):
    """Half precision in the image tower alone: many processors take a minute for one convolutional step in it."""

    def autocast(self, stage: str) -> contextlib.AbstractContextManager:
        return super().autocast(stage) if stage == "encoder" else contextlib.nullcontext()


def bench(folder: Path, recipe: benches.Recipe = MICRO) -> benches.Bench:
    return Bench(recipe, folder / "weights", folder / "work", torch.device("cpu"))


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights folder after every stage has taken its two steps."""
    made = bench(tmp_path_factory.mktemp("family"))
    with pytest.MonkeyPatch.context() as patch:
        for module in (train, face_stages):
            patch.setattr(module, "COPIES", 8)
        for stage in train.STAGES:
            assert train.Training(made, stage).run()
    return made.weights


# --- networks -------------------------------------------------------------------------------------------------------


def test_tokens_are_clips() -> None:
    open_clip = pytest.importorskip("open_clip")
    encode = open_clip.tokenizer.SimpleTokenizer().encode
    assert {word: encode(word) for word in networks.TOKENS} == {word: [i] for word, i in networks.TOKENS.items()}
    caption = "a small red heart on white dots"
    ids = networks.token_ids(caption)
    assert len(ids) == 77
    assert ids[1:8] == encode(caption)
    assert set(ids[8:]) == {networks.END}


def test_text_encoder_is_transformers_and_stays() -> None:
    transformers = pytest.importorskip("transformers")
    weights = networks.text_weights(layers=2, vocabulary=False)
    captions = ["", "a red circle on blue stripes"]
    states = networks.TextEncoder(weights)(captions)
    config = transformers.CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=2, num_attention_heads=12
    )
    with torch.random.fork_rng(), torch.device("meta"):
        model = transformers.CLIPTextModel(config)
    model.to_empty(device="cpu")
    model.text_model.embeddings.position_ids = torch.arange(77)[None]
    missing = model.load_state_dict({name: value.float() for name, value in weights.items()}, strict=False)
    assert not [key for key in missing.missing_keys if "position_ids" not in key]
    theirs = model.eval()(input_ids=torch.tensor([networks.token_ids(c) for c in captions])).last_hidden_state
    assert torch.allclose(states, theirs, atol=1e-4)
    # What the shipped UNet was trained on: other numbers here would make its weights worthless.
    pinned = [weights[name].flatten()[k].item() for name, k in (
        ("text_model.embeddings.token_embedding.weight", 736 * 768), ("text_model.encoder.layers.1.mlp.fc2.weight", 5),
    )]  # fmt: skip
    assert pinned == PINNED


PINNED = [1.4423828125, -0.0011262893676757812]


def test_autoencoder_standardises_without_changing_pictures() -> None:
    model = randomise(networks.Autoencoder(), 5)
    x = draw(2, 3, 64, 64, seed=1)
    (mean, std), centre, spread = model.encode(x), draw(4, seed=2), 0.5 + draw(4, seed=3).abs()
    before = model.decode(mean)
    model.standardise(centre, spread)
    new_mean, new_std = model.encode(x)
    gain = (spread * networks.SCALE)[:, None, None]
    assert torch.allclose(new_mean * gain, mean - centre[:, None, None], atol=1e-4)
    assert torch.allclose(new_std * gain, std, rtol=1e-3)
    assert torch.allclose(model.decode(new_mean), before, atol=1e-3)


@pytest.mark.parametrize("kind", ["base", "plus"])
def test_training_injects_what_generation_injects(kind: str) -> None:
    """Tokens, keys, values and attention of the training equal the project's own hooks; gradients reach everything."""
    unet = randomise(networks.build_unet(), 4).eval().requires_grad_(False)
    layers = cross_attention_layers(unet)
    width = networks.VISION["width"]
    weights = {name: value.requires_grad_() for name, value in networks.new_adapter(kind, unet, width).items()}
    embedding = draw(3, *((1024,) if kind == "base" else (65, width)), seed=7)
    x, t, text = draw(3, 4, 8, 8, seed=8), torch.tensor([10, 500, 900]), draw(3, 77, 768, seed=9)
    injection = networks.TrainableInjection(unet, weights)
    with torch.enable_grad():
        injection.tokens = networks.image_tokens(weights, embedding)
        ours = unet(x, t, context=text)
        mse_loss(ours, x).backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in weights.values())
    injection.detach()
    plain = unet(x, t, context=text)

    tokens = networks.image_tokens(weights, embedding)
    key, value = ([weights[f"ip_adapter.{2 * i + 1}.to_{p}_ip.weight"] for i in range(16)] for p in "kv")
    prompt = ImagePrompt(kv=KeysValues.project(key, value, tokens, tokens))
    with Injection(unet, layers, [prompt]) as real:
        real.begin(tuple(Row(True, i) for i in range(3)), 0, 1)
        theirs = unet(x, t, context=text)
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert (ours - plain).abs().mean() > 1e-2


def test_pictures_that_share_a_caption_share_nothing_else() -> None:
    unet = randomise(networks.build_unet(), 4).eval().requires_grad_(False)
    x, t, text = draw(6, 4, 8, 8, seed=1), torch.tensor([10, 20, 500, 600, 900, 990]), draw(3, 77, 768, seed=2)
    assert torch.allclose(unet(x, t, context=text), unet(x, t, context=text.repeat_interleave(2, 0)), atol=1e-5)


# --- training -------------------------------------------------------------------------------------------------------


def test_a_batch_has_its_scenes_captions_and_drops_one_in_ten() -> None:
    captions, variants = 7, 3
    latents = torch.arange(captions * variants).float()[:, None, None, None].expand(-1, 4, 8, 8)
    scenes = world.scenes(captions * variants, world.generator(1))
    source = benches.Pool(scenes, torch.zeros(captions + 1, 77, 1), latents, torch.zeros_like(latents))
    plan, alphas = benches.Plan(1, 4000, 1e-3, share=4), networks.alphas_cumprod()
    batch = benches.noised(source, plan, world.generator(2), alphas)
    a = alphas[batch.t][:, None, None, None]
    shown = (batch.x - (1 - a).sqrt() * batch.noise) / (a.sqrt() * networks.SCALE)
    assert torch.allclose(shown.mean((1, 2, 3)), batch.index.float(), atol=1e-2)
    told = batch.text > 0
    assert 0.85 < told.float().mean() < 0.95
    assert torch.equal((batch.index.view(-1, 4) % captions + 1)[told], batch.text[told, None].expand(-1, 4))
    assert set(batch.index.tolist()) == set(range(captions * variants))
    # Weights are those of min-SNR: 1 where noise prevails, falling with the signal-to-noise ratio above 5.
    ratio = (alphas / (1 - alphas))[batch.t]
    assert torch.allclose(batch.weight, torch.minimum(ratio, torch.tensor(5.0)) / ratio)


def test_a_resumed_stage_equals_an_unbroken_one(tmp_path: Path) -> None:
    recipe = replace(MICRO, stages={"encoder": benches.Plan(4, 4, 1e-3)})
    whole, parts = bench(tmp_path / "whole", recipe), bench(tmp_path / "parts", recipe)
    unbroken = train.Training(whole, "encoder")
    assert unbroken.run()
    calls = iter([False, False, True])
    assert not train.Training(parts, "encoder").run(lambda: next(calls))
    assert not (parts.weights / "encoder.safetensors").exists()
    with pytest.raises(SystemExit, match="another recipe"):
        train.Training(bench(tmp_path / "parts", replace(recipe, seed=2)), "encoder")
    shutil.copytree(parts.work, tmp_path / "far" / "work", ignore=lambda *_: ["encoder.pt"])
    assert train.Training(bench(tmp_path / "far", recipe), "encoder").step == 2  # from averages, small enough to travel
    resumed = train.Training(parts, "encoder")
    assert resumed.step == 2
    assert resumed.run()
    assert resumed.losses == unbroken.losses
    assert not list(parts.work.iterdir())
    for name, parameter in unbroken.job.parameters.items():
        assert torch.equal(parameter, resumed.job.parameters[name]), name
    one, other = (networks.load_state(folder.weights, "encoder") for folder in (whole, parts))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_every_stage_writes_a_file_that_is_recognised(family: Path) -> None:
    names = {"vae", "encoder", "judge", "unet", "adapter", "plus", "words", "identity", "witness", "faceid"}
    assert {path.stem for path in family.glob("*.safetensors")} == names
    assert sum(path.stat().st_size for path in family.glob("*.safetensors")) <= 48e6
    base, plus, face = (  # as they are composed: the base adapter's file has its projection packed
        identify({key: tuple(value.shape) for key, value in networks.load_state(family, name).items()})
        for name in ("adapter", "plus", "faceid")
    )
    assert (base.variant, base.base, base.tokens, base.embedding_width) == ("base", "SD1.5", 4, 1024)
    assert (plus.variant, plus.base, plus.tokens, plus.embedding_width) == ("plus", "SD1.5", 16, 128)
    assert (face.variant, face.base, face.tokens, face.embedding_width) == ("faceid", "SD1.5", 4, 512)
    assert face.has_lora and face.source == "face"
    widths = tuple(layer.width for layer in cross_attention_layers(networks.load(family, "unet")))
    assert base.layer_widths == plus.layer_widths == face.layer_widths == widths
    recognition = networks.encoder_name(networks.load_state(family, "identity"), "faces")
    assert read_metadata(family / "faceid.safetensors")["image_encoder"] == recognition


def test_the_encoder_is_the_projects_encoder(family: Path) -> None:
    spec = identify(read_shapes(family / "encoder.safetensors"))
    assert (spec.image_size, spec.projection, spec.width) == (64, 1024, 128)
    theirs = ImageEncoder.from_state(spec, load_encoder_state(family / "encoder.safetensors"), dtype=torch.float32)
    pixels = networks.to_pixels(world.draw(world.scenes(3, world.generator(12))))
    pooled, penultimate = networks.load(family, "encoder")(pixels)
    found = theirs.encode(pixels)
    assert torch.allclose(pooled, found.pooled, atol=1e-4)
    assert torch.allclose(penultimate, found.penultimate, atol=1e-4)


def test_the_encoder_has_its_words(family: Path, tmp_path: Path) -> None:
    """The composed file is an ordinary CLIP model: the project's text tower and transformers' read it alike."""
    transformers = pytest.importorskip("transformers")
    state = compose.encoder_state(family)
    assert state[networks.TABLE].shape == (49408, 64) and state[networks.TABLE].dtype == torch.float16
    spec = identify({key: tuple(value.shape) for key, value in state.items()})
    assert replace(spec, text=None) == identify(read_shapes(family / "encoder.safetensors"))
    assert (spec.text.width, spec.text.heads, spec.text.layers, spec.text.projection) == (64, 1, 3, 1024)
    tower = networks.load(family, "words")
    captions = ["a red circle on blue stripes", "red", "a small star and a heart"]
    ours = tower(captions)
    theirs = TextTower.from_state(spec.text, dict(state), dtype=torch.float32)
    assert torch.allclose(ours, torch.cat([theirs.embed(caption) for caption in captions]), atol=1e-4)
    text = transformers.CLIPTextConfig(
        vocab_size=49408, hidden_size=64, intermediate_size=256, num_hidden_layers=3, num_attention_heads=1,
        projection_dim=1024, hidden_act="gelu",
    )  # fmt: skip
    vision = transformers.CLIPVisionConfig(
        hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=2, image_size=64, patch_size=8,
        projection_dim=1024, hidden_act="gelu",
    )  # fmt: skip
    with torch.random.fork_rng():
        both = transformers.CLIPConfig.from_text_vision_configs(text, vision, projection_dim=1024)
        model = transformers.CLIPModel(both)
    loaded = model.load_state_dict({name: value.float() for name, value in state.items()}, strict=False)
    assert not loaded.unexpected_keys and all("position_ids" in key for key in loaded.missing_keys)
    ids = torch.tensor([networks.token_ids(caption) for caption in captions])
    with torch.no_grad():
        assert torch.allclose(ours, model.eval().get_text_features(input_ids=ids), atol=1e-4)


def test_words_of_another_encoder_are_left_out(family: Path, tmp_path: Path) -> None:
    for name in ("encoder", "words"):
        shutil.copyfile(family / f"{name}.safetensors", tmp_path / f"{name}.safetensors")
    assert networks.TABLE in compose.encoder_state(tmp_path)
    networks.save(tmp_path, "encoder", {k: v.float() + 1 for k, v in networks.load_state(family, "encoder").items()})
    assert networks.TABLE not in compose.encoder_state(tmp_path)
    (tmp_path / "words.safetensors").unlink()
    assert networks.TABLE not in compose.encoder_state(tmp_path)


@pytest.mark.skipif(not (benches.WEIGHTS / "words.safetensors").exists(), reason="not trained")
def test_the_shipped_words_mean_what_they_say() -> None:
    parts = SimpleNamespace(
        encoder=networks.load(benches.WEIGHTS, "encoder"), words=networks.load(benches.WEIGHTS, "words"),
        device=torch.device("cpu"),
    )  # fmt: skip
    report = quality.words_subtracted(parts, 256)
    assert min(measure.mean for measure in report["retrieval"].values()) > 0.7
    red = report["red"]
    assert red["told apart"].mean > 0.99 and red["the word"].mean > 0.25
    assert abs(red["after"].mean) < 1e-5 and red["after"].deviation < 1e-5
    assert red["their change"].mean < 0.2 * red["other true words"].mean
    assert report["colours"]["told apart"].mean > 0.99 and report["textures"]["told apart"].mean > 0.97


def test_the_checkpoint_holds_what_the_host_loads(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import yaml
    from ldm.util import instantiate_from_config

    small = networks.text_weights(layers=1, vocabulary=False)
    monkeypatch.setattr(networks, "text_weights", lambda: small)
    checkpoint, settings, *copies = compose.compose(tmp_path, family)
    shapes = read_shapes(checkpoint)
    assert identify(shapes).base == "SD1.5"
    config = yaml.safe_load(settings.read_text())["model"]["params"]
    assert (config["scale_factor"], config["linear_start"], config["linear_end"]) == (0.18215, 0.00085, 0.012)
    unet = instantiate_from_config(config["unet_config"]).state_dict()
    prefix = "model.diffusion_model."
    assert {prefix + k: tuple(v.shape) for k, v in unet.items()} == {
        k: tuple(v) for k, v in shapes.items() if k.startswith(prefix)
    }
    vae = networks.Autoencoder().state_dict()
    assert {f"first_stage_model.{k}" for k in vae} == {k for k in shapes if k.startswith("first_stage_model.")}
    text = "cond_stage_model.transformer.text_model."
    assert tuple(shapes[f"{text}embeddings.token_embedding.weight"]) == (49408, 768)
    assert tuple(shapes[f"{text}embeddings.position_ids"]) == (1, 77)
    assert sum(k.startswith(f"{text}encoder.layers.") for k in shapes) == len(networks.text_shapes(1)) - 4
    assert len(networks.text_shapes()) == 12 * 16 + 4
    assert len(copies) == 4
    assert identify(read_shapes(copies[-1])).text.vocabulary == 49408
    assert read_metadata(copies[-1]) == read_metadata(family / "encoder.safetensors")
    before = checkpoint.stat().st_mtime_ns
    compose.compose(tmp_path, family)
    assert checkpoint.stat().st_mtime_ns == before
    with pytest.raises(FileNotFoundError, match="--stage"):
        compose.compose(tmp_path, tmp_path / "nothing")


def test_quality_measures(family: Path) -> None:
    """The measuring runs end to end; what untrained weights score means nothing."""
    measured = quality.Family(family, text_layers=1)
    scenes, pictures = quality.references(2)
    assert world.is_held_out(scenes).all()
    none, some = (measured.sample(["", ""], measured.prompt("adapter", pictures, w), steps=2) for w in (0.0, 1.0))
    assert torch.equal(none, measured.sample(["", ""], steps=2))
    assert not torch.equal(none, some)
    assert torch.allclose(measured.similarity(pictures, pictures), torch.ones(2), atol=1e-5)
    found = quality._summary(measured.matches(some, scenes))
    assert all(0 <= measure.mean <= 1 and measure.n == 2 for measure in found.values())
    words = quality.words_subtracted(measured, 40)
    assert words["retrieval"]["caption finds picture"].n == 40
    assert all(abs(part["after"].mean) < 1e-5 for name, part in words.items() if name != "retrieval")
    assert str(quality.Measure.of(torch.tensor([0.0, 1.0]))) == "0.500 ± 0.500"
