"""Tests checkpoints: every published layout, our own layout, and files that are wrong."""

import pickle
from dataclasses import replace

import pytest
import safetensors
import safetensors.torch
import torch
from conftest import layout_of, recorded_state

import yolact
from yolact.config import PRESETS, SHAPES_CLASSES, get_preset
from yolact.convert import convert
from yolact.models.yolact import Yolact
from yolact.weights import download
from yolact.weights.checkpoints import CheckpointError, read_checkpoint, write_safetensors
from yolact.weights.download import DownloadError
from yolact.weights.layouts import name_in_original, recognise, to_original, to_ours

LAYOUTS = {
    "yolact_resnet50": "yolact_resnet50",
    "yolact_base": "yolact_base",
    "yolact_resnet50_pascal": "yolact_resnet50_pascal",
    "yolact_darknet53": "yolact_darknet53",
    "yolact_plus_resnet50": "yolact_plus_resnet50",
    "yolact_plus_base": "yolact_plus_base",
    "yolact_im400": "yolact_base",
    "yolact_im700": "yolact_im700",
    "yolact_r50_1x8_coco": "mmdet_r50",
    "yolact_r50_8x8_coco": "mmdet_r50",
    "yolact_r101_1x8_coco": "mmdet_r101",
}


def meta_state(layout: str) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in layout_of(layout).items()}


@pytest.mark.parametrize("preset", LAYOUTS)
def test_every_published_name_and_shape_is_consumed(preset):
    published = meta_state(LAYOUTS[preset])
    layout = recognise(published)
    assert layout == get_preset(preset).published_layout
    with torch.device("meta"):
        expected = yolact.build_model(preset).state_dict()
    actual = to_ours(published, layout)
    assert len(actual) == len(published)
    assert {name: value.shape for name, value in actual.items()} == {
        name: value.shape for name, value in expected.items()
    }


ORIGINALS = [preset for preset in LAYOUTS if get_preset(preset).published_layout == "original"]


@pytest.mark.parametrize("preset", ORIGINALS)
def test_names_go_back_to_the_originals(preset):
    published = meta_state(LAYOUTS[preset])
    back = to_original(to_ours(published, "original"))
    assert {name: value.shape for name, value in back.items()} == {
        name: value.shape for name, value in published.items()
    }


@pytest.mark.parametrize("preset", ORIGINALS)
def test_a_checkpoint_goes_to_our_layout_and_back(preset, tmp_path):
    """Every tensor comes back with its name and values. Our layout also keeps what the original's cannot store."""
    with torch.device("meta"):
        names = {name: value.shape for name, value in yolact.build_model(preset).state_dict().items()}
    theirs = to_original({name: torch.randn(shape) if shape else torch.tensor(3) for name, shape in names.items()})
    torch.save(theirs, tmp_path / "in.pth")
    ours, back = tmp_path / "ours.safetensors", tmp_path / f"{preset}_1_2.pth"
    assert convert(tmp_path / "in.pth", ours, "yolact", preset).name == preset
    assert read_checkpoint(ours).preset == preset
    assert read_checkpoint(ours).class_names == get_preset(preset).class_names
    convert(ours, back, "original")
    actual = torch.load(back, weights_only=True)
    assert actual.keys() == theirs.keys() == layout_of(LAYOUTS[preset]).keys()
    assert all(actual[name].equal(value) for name, value in theirs.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["in.pth", ours.name, back.name])


def test_what_the_original_cannot_run_is_not_converted(tmp_path, mmdet):
    torch.save({"state_dict": mmdet}, tmp_path / "mmdet.pth")
    with pytest.raises(ValueError, match=r"mmdet\.pth: the original has no network such as .*pyramid is mmdetection's"):
        convert(tmp_path / "mmdet.pth", tmp_path / "out.pth", "original", "yolact_r50_1x8_coco")
    yolact.save_weights(yolact.build_model("yolact_shapes"), tmp_path / "s.safetensors", SHAPES_CLASSES)
    with pytest.raises(ValueError, match=r"its backbone is regnet_y_400mf\): convert it to yolact"):
        convert(tmp_path / "s.safetensors", tmp_path / "out.pth", "original")
    with pytest.raises(ValueError, match="to must be yolact or original, got 'mmdet'"):
        convert(tmp_path / "mmdet.pth", tmp_path / "out.pth", "mmdet")
    assert not (tmp_path / "out.pth").exists()
    convert(tmp_path / "mmdet.pth", tmp_path / "ours.safetensors", "yolact", "yolact_r50_1x8_coco")
    assert read_checkpoint(tmp_path / "ours.safetensors").preset == "yolact_r50_1x8_coco"


def test_plain_and_plus_do_not_mix(original):
    plus = meta_state("yolact_plus_resnet50")
    with pytest.raises(CheckpointError) as caught:
        yolact.load_weights(yolact.build_model("yolact_resnet50"), plus)
    message = str(caught.value)
    assert "does not fit yolact_resnet50 with 80 classes" in message
    assert "surplus: backbone.layer2.0.conv2.bias, backbone.layer2.0.conv2.conv_offset_mask.bias" in message
    assert "build_model('yolact_plus_resnet50', num_classes=80)" in message
    with pytest.raises(CheckpointError, match=r"missing: backbone.layer2.0.conv2.bias.*build_model\('yolact_resnet50'"):
        yolact.load_weights(yolact.build_model("yolact_plus_resnet50"), original)
    with pytest.raises(ValueError, match=r"deformable_interval is 1, but only resnet50 and resnet101"):
        Yolact(replace(get_preset("yolact_plus_resnet50"), backbone="darknet53"))
    with pytest.raises(ValueError, match="image_size 160 makes masks of 40 pixels a side, .* at least 252"):
        Yolact(replace(get_preset("yolact_plus_resnet50"), image_size=160))


def test_pascals_classes():
    names = get_preset("yolact_resnet50_pascal").class_names
    assert len(names) == len(set(names)) == 20
    assert names[0] == "aeroplane"
    assert names[14] == "person"
    assert names[19] == "tvmonitor"


@pytest.fixture(scope="module")
def original() -> dict[str, torch.Tensor]:
    return recorded_state("yolact_resnet50")


@pytest.fixture(scope="module")
def mmdet() -> dict[str, torch.Tensor]:
    return recorded_state("mmdet_r50", 1.2)


@pytest.fixture
def model() -> Yolact:
    return yolact.build_model("yolact_resnet50")


def test_2020s_and_later_mmdet_files_load_alike(mmdet):
    older = {name.replace("mask_head.segm_branch.", "segm_head."): value for name, value in mmdet.items()}
    assert set(older) != set(mmdet)
    models = []
    for state in ({"meta": {}, "state_dict": mmdet}, {"meta": {}, "state_dict": older}):
        models.append(yolact.build_model("yolact_r50_1x8_coco"))
        yolact.load_weights(models[-1], state)
    for a, b in zip(models[0].state_dict().values(), models[1].state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_mmdets_background_comes_first(mmdet):
    model = yolact.build_model("yolact_r50_1x8_coco")
    yolact.load_weights(model, mmdet)
    theirs = mmdet["bbox_head.conv_cls.bias"].view(3, 81)
    ours = model.head.logits.bias.detach().view(3, 81)
    assert torch.equal(ours[:, 0], theirs[:, 80])
    assert torch.equal(ours[:, 1:], theirs[:, :80])


def test_surplus_entries_of_old_files_are_dropped(model, original):
    state = dict(original)
    state["backbone.layer1.0.conv1.weight"] = torch.zeros(1)
    state["fpn.downsample_layers.2.weight"] = torch.zeros(1)
    state["fpn.downsample_layers.3.bias"] = torch.zeros(1)
    yolact.load_weights(model, state)
    assert torch.equal(model.fpn.p6.weight, original["fpn.downsample_layers.0.weight"])


def test_half_precision_checkpoints_load(model, original):
    half = {name: value.half() if value.is_floating_point() else value for name, value in original.items()}
    yolact.load_weights(model, half)
    assert model.fpn.p6.weight.dtype == torch.float32


def test_missing_surplus_and_misshapen_entries_are_listed_at_once(model, original):
    state = dict(original)
    del state["fpn.lat_layers.0.weight"]
    state["extra.weight"] = torch.zeros(1)
    state["proto_net.0.bias"] = torch.zeros(7)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        yolact.load_weights(model, state)
    message = str(caught.value)
    assert "missing: fpn.laterals.2.weight" in message
    assert "surplus: extra.weight" in message
    assert "protonet.before.0.bias is (7,), not (256,)" in message
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_checkpoint_of_another_preset_says_which(original, mmdet):
    with pytest.raises(CheckpointError, match=r"does not fit yolact_base .* fits build_model\('yolact_resnet50'"):
        yolact.load_weights(yolact.build_model("yolact_base"), original)
    with pytest.raises(CheckpointError, match="yolact_r50_1x8_coco"):
        yolact.load_weights(yolact.build_model("yolact_r101_1x8_coco"), mmdet)


def test_a_checkpoint_of_another_class_count_says_which(original):
    with pytest.raises(CheckpointError, match="does not fit yolact_resnet50 with 5 classes.*num_classes=80"):
        yolact.load_weights(yolact.build_model("yolact_resnet50", num_classes=5), original)


def test_not_a_number_is_refused(model, original):
    state = dict(original)
    state["proto_net.0.bias"] = torch.full((256,), float("nan"))
    with pytest.raises(CheckpointError, match="NaN or infinite weights in protonet.before.0.bias"):
        yolact.load_weights(model, state)


class RunsCode:
    def __reduce__(self):
        return print, ("this must never be printed",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"hello, this is no checkpoint", "neither a safetensors nor a PyTorch file"),
        (b"PK\x03\x04 cut", "broken or truncated"),
        (pickle.dumps({"a": RunsCode()}, protocol=2), "would run code"),
    ],
)
def test_files_that_are_not_checkpoints(content, message, tmp_path, capsys):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "never" not in capsys.readouterr().out


def test_other_files_that_are_not_checkpoints(tmp_path, small_export):
    with pytest.raises(CheckpointError, match="there is no such file"):
        read_checkpoint(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="this is a folder"):
        read_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="exported TorchScript model"):
        read_checkpoint(small_export)
    path = tmp_path / "list.pth"
    torch.save([torch.zeros(1)], path)
    with pytest.raises(CheckpointError, match="holds a list"):
        read_checkpoint(path)
    torch.save({"fc.weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"is not a YOLACT checkpoint.*fc\.weight"):
        read_checkpoint(path)
    torch.save({1: torch.zeros(1), "bbox_head.conv_cls.weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"is not a YOLACT checkpoint.*entries: 1, bbox_head"):
        read_checkpoint(path)


def test_a_truncated_checkpoint_is_refused(tmp_path, original):
    path = tmp_path / "yolact_resnet50_54_800000.pth"
    torch.save(original, path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="broken"):
        yolact.load(path)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_checkpoint_that_is_cut_anywhere_is_refused(tmp_path, kind):
    path, state = tmp_path / "cut", {f"layer{number}.weight": torch.ones(16, 16) for number in range(4)}
    if kind == "safetensors":
        write_safetensors(path, state, {"preset": "yolact_base"})
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    for size in range(0, len(whole) - 1, 97):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=f"^{path}: ") as caught:
            read_checkpoint(path)
        assert "\n" not in str(caught.value)


def test_our_own_file_remembers_preset_and_classes(tmp_path):
    model = yolact.build_model("yolact_im400", num_classes=2)
    path = tmp_path / "mine.safetensors"
    yolact.save_weights(model, path, ["cat", "dog"])
    detector = yolact.load(path)
    assert not detector.training
    assert detector.model.preset.name == "yolact_im400"
    assert detector.class_names == ["cat", "dog"]
    for a, b in zip(model.state_dict().values(), detector.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    # yolact_base has the same shapes but other anchors.
    with pytest.raises(CheckpointError, match="was saved from yolact_im400"):
        yolact.load_weights(yolact.build_model("yolact_base", num_classes=2), path)
    assert list(tmp_path.iterdir()) == [path]


def test_load_finds_the_preset_of_a_file(tmp_path, original):
    path = tmp_path / "anything.pth"
    torch.save(original, path)
    assert yolact.load(path).model.preset.name == "yolact_resnet50"


def test_load_asks_where_several_presets_fit(tmp_path):
    with torch.device("meta"):
        names = {
            name_in_original(name): tuple(value.shape)
            for name, value in yolact.build_model("yolact_base").state_dict().items()
        }
    state = {name: torch.zeros(shape) for name, shape in names.items()}
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    with pytest.raises(CheckpointError, match="fits each of yolact_base, yolact_im400, yolact_im700.*--preset"):
        yolact.load(path)
    assert yolact.load(path, preset="yolact_im700").image_size == 700
    named = path.rename(tmp_path / "yolact_im400_54_800000.pth")
    assert yolact.load(named).image_size == 400


def test_load_names_what_there_is():
    with pytest.raises(ValueError, match="'yolact_resnet49' is neither a file nor a preset.*yolact_resnet50"):
        yolact.load("yolact_resnet49")
    with pytest.raises(ValueError, match="'gpu' is not a device"):
        yolact.load("yolact_resnet50", device="gpu")


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network and empty caches, as on a machine behind a firewall."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


@pytest.mark.parametrize("name", ["yolact_resnet50", "yolact_r50_1x8_coco"])
def test_the_error_without_a_network_has_the_address_and_the_way_around(name, offline, monkeypatch):
    address = "http://127.0.0.1:9/weights.pth"  # no server listens there
    preset = PRESETS[name]
    if preset.publication.url:
        preset = replace(preset, publication=replace(preset.publication, url=address))
    monkeypatch.setitem(PRESETS, name, preset)
    with pytest.raises(DownloadError) as caught:
        yolact.load(name)
    assert preset.publication.address in str(caught.value)
    assert "local file" in str(caught.value) or "path" in str(caught.value)
    assert download.cached_file(preset) is None


def test_a_preset_without_published_weights_says_so():
    with pytest.raises(ValueError, match="yolact_im400"):
        yolact.load("yolact_im400")


def test_a_download_is_kept_and_a_broken_one_is_not(offline, tmp_path, monkeypatch, mmdet):
    """Downloads from a file:// address, so that no network is needed."""
    import hashlib

    served = tmp_path / "served.pth"
    torch.save({"meta": {}, "state_dict": mmdet}, served)
    digest = hashlib.sha256(served.read_bytes()).hexdigest()
    preset = PRESETS["yolact_r50_1x8_coco"]
    good = replace(preset.publication, url=served.as_uri(), sha256_prefix=digest[:8])
    monkeypatch.setitem(PRESETS, preset.name, replace(preset, publication=replace(good, sha256_prefix="00000000")))
    with pytest.raises(DownloadError):
        yolact.load(preset.name)
    assert download.cached_file(PRESETS[preset.name]) is None
    monkeypatch.setitem(PRESETS, preset.name, replace(preset, publication=good))
    assert yolact.load(preset.name).model.preset.name == preset.name
    served.unlink()
    assert download.cached_file(PRESETS[preset.name]) is not None
    assert yolact.load(preset.name).model.preset.name == preset.name


def test_safetensors_metadata(tmp_path):
    model = yolact.build_model("yolact_resnet50", num_classes=1)
    path = tmp_path / "one.safetensors"
    with pytest.raises(ValueError, match="line break"):
        yolact.save_weights(model, path, ["a\nb"])
    yolact.save_weights(model, path, ["thing"])
    with safetensors.torch.safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt", "preset": "yolact_resnet50", "class_names": "thing"}


def test_safetensors_are_written_as_their_library_writes_them(tmp_path):
    state = {
        "half": torch.randn(3, 5).half(),
        "weight": torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last),
        "count": torch.tensor(7),
        "bf16": torch.randn(3).bfloat16(),
        "part": torch.randn(6, 6)[:, ::2],
        "none": torch.zeros(0, 2),
    }
    metadata = {"class_names": "Käse\n犬", "note": '"'}
    write_safetensors(tmp_path / "a.safetensors", state, metadata)
    with safetensors.safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert file.metadata() == metadata
        assert {name: file.get_tensor(name).dtype for name in file.keys()} == {k: v.dtype for k, v in state.items()}  # noqa: SIM118
        assert all(file.get_tensor(name).equal(value) for name, value in state.items())
    theirs = safetensors.torch.save({name: value.contiguous() for name, value in state.items()}, metadata)
    values = sum(value.nbytes for value in state.values())
    assert (tmp_path / "a.safetensors").read_bytes()[-values:] == theirs[-values:]
