"""The configuration: what it refuses, and that it survives being written down."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from tfseg.config import ComparisonConfig
from tfseg.errors import ConfigError
from tfseg.plain import from_plain, to_plain
from tfseg.presets import DEMO, QUICKSTART_PRESETS
from tfseg.session import Session
from tfseg.words import named_values

WRONG = [
    *(
        (name, 0)
        for name in (
            "image_size",
            "cross_validation",
            "repeats",
            "segmenter_epochs",
            "segmenter_batch_size",
            "epochs",
            "batch_size",
            "segmenter_width",
            "segmenter_depth",
            "segmenter_patience",
            "patience",
            "symmetry_epochs",
        )
    ),
    *(
        (name, value)
        for name in ("segmenter_learning_rate", "symmetry_learning_rate", "learning_rate")
        for value in (0.0, -1.0, float("nan"))
    ),
    *((name, -0.1) for name in ("dropout", "cross_entropy_share", "zoom", "shift", "rotation", "shear")),
    ("momentum", -0.1),
    ("weight_decay", -0.1),
    ("joint_symmetry", -0.1),
    *(("test_fraction", value) for value in (-0.1, 1.0)),
    *((name, -0.1) for name in ("brightness", "contrast", "saturation", "background_swap")),
    *((name, 1.0) for name in ("dropout", "zoom", "shift", "momentum")),
    ("unfreeze_per_epoch", -1),
    ("warmup_epochs", -1),
    *((name, 1.01) for name in ("cross_entropy_share", "brightness", "contrast", "saturation", "background_swap")),
    ("rotation", 180.5),
    ("shear", 61.0),
    ("head_units", -1),
    ("freeze_first", -1),
    ("epoch_images", -1),
    ("seed", -1),
    ("split_seed", -1),
    ("segmenter_flips", "diagonal"),
    ("segmenter_postprocessing", ("fill_holes", "erode")),
    ("segmenter_postprocessing", "fill_holes"),
    ("sensitivity", 0.0),
    ("sensitivity", 1.01),
    ("sensitivity", float("nan")),
    ("positive", ("a",)),
    *(("abstain_share", value) for value in (-0.1, 1.0)),
    *(("familiar_share", value) for value in (-0.1, 1.01)),
    ("approaches", ()),
    ("approaches", ("plain", "plain")),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=str)
def test_values_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=f"`{name}` .*received"):
        ComparisonConfig(data="d", **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cross_entropy_share", 0.0),
        ("cross_entropy_share", 1.0),
        ("rotation", 0.0),
        ("rotation", 180.0),
        ("rotation", None),
        ("flips", False),
        ("background_swap", 1.0),
        ("dropout", 0.0),
        ("head_units", 0),
        ("cross_validation", 1),
        ("momentum", 0.0),
        ("weight_decay", 0.0),
        ("warmup_epochs", 0),
        ("epoch_images", 0),
        ("seed", 0),
    ],
    ids=str,
)
def test_the_ends_of_the_ranges_are_allowed(name, value):
    assert getattr(ComparisonConfig(data="d", **{name: value}), name) == value


def test_a_sensitivity_needs_positive_classes():
    with pytest.raises(ConfigError, match="`positive` must name the classes of a `sensitivity`"):
        ComparisonConfig(data="d", sensitivity=0.9)
    with pytest.raises(ConfigError, match="received 'ab' and 0.9"):
        ComparisonConfig(data="d", sensitivity=0.9, positive="ab")
    ends = {"sensitivity": 1.0, "positive": ("a",), "abstain_share": 0.0, "familiar_share": 0.0}
    assert ComparisonConfig(data="d", **ends).familiar_share == 0.0


def test_one_test_part_is_for_folds():
    with pytest.raises(ConfigError, match="`test_fraction` is for `cross_validation`"):
        ComparisonConfig(data="d", test_fraction=0.2)
    assert ComparisonConfig(data="d", test_fraction=0.2, cross_validation=3).test_fraction == 0.2


def test_a_symmetry_network_is_like_the_classifier_unless_named():
    assert ComparisonConfig(data="d", backbone="resnet50").resolved().symmetry_backbone == "resnet50"
    named = ComparisonConfig(data="d", backbone="resnet50", symmetry_backbone="small_cnn").resolved()
    assert named.symmetry_backbone == "small_cnn"
    with pytest.raises(ConfigError, match="and the symmetry network squeezenet_1_1.*or `--symmetry-weights`"):
        ComparisonConfig(data="d", weights="r.npz", backbone="resnet50", symmetry_backbone="squeezenet_1_1")
    both = {"backbone": "resnet50", "symmetry_backbone": "squeezenet_1_1", "symmetry_weights": "s.npz"}
    assert ComparisonConfig(data="d", weights="r.npz", **both).symmetry_weights == "s.npz"


def test_se_lcn_trains_by_gradient_and_end_to_end_on_one_machine():
    with pytest.raises(ConfigError, match="se_lcn_zeroed trains by gradient"):
        ComparisonConfig(data="d", approaches=("plain", "se_lcn_zeroed"), training="probe", segmenter="none")
    with pytest.raises(ConfigError, match="`joint_symmetry` trains on one machine"):
        ComparisonConfig(data="d", approaches=("se_lcn",), joint_symmetry=1.0, distribution="multiworker")


def test_options_by_name_and_value():
    words = ("depth=3", "dropout=0.5", "greyscale=true", "skip=FALSE", "norm=none", "up=bilinear", "weights=1,2.5")
    assert named_values(words, "x") == {
        "depth": 3,
        "dropout": 0.5,
        "greyscale": True,
        "skip": False,
        "norm": None,
        "up": "bilinear",
        "weights": [1, 2.5],
    }
    for wrong in ("depth", "=3", "depth=", "a b=3"):
        with pytest.raises(ConfigError, match="`segmenter_options`: expected NAME=VALUE, received"):
            ComparisonConfig(data="d", segmenter_options=(wrong,))
    with pytest.raises(ConfigError, match="`segmenter_slope`"):
        ComparisonConfig(data="d", segmenter_slope=1.0)


def test_one_file_of_weights_is_for_one_network():
    with pytest.raises(ConfigError, match="can't be for the backbone squeezenet_1_1 and .* mobilenet_v2.*weights-dir"):
        ComparisonConfig(data="d", weights="s.npz", backbone="squeezenet_1_1", segmenter_encoder="mobilenet_v2")
    assert ComparisonConfig(data="d", weights="s.npz", backbone="squeezenet_1_1").resolved().segmenter_encoder == "none"
    both = ComparisonConfig(data="d", weights="imagenet", backbone="resnet50").resolved()
    assert both.segmenter_encoder == "mobilenet_v2" and both.weights_of("resnet50") == "imagenet"
    with pytest.raises(ConfigError, match="not both"):
        ComparisonConfig(data="d", weights="imagenet", weights_dir="w")


def test_a_folder_of_weights(tmp_path):
    for name in ("squeezenet1_1_imagenet.npz", "mobilenet_v2.weights.h5", "mobilenet_v2_order.txt", "cat.jpg"):
        (tmp_path / name).write_text("")
    config = ComparisonConfig(data="d", weights_dir=str(tmp_path), backbone="squeezenet_1_1").resolved()
    assert config.weights_of("squeezenet_1_1") == str(tmp_path / "squeezenet1_1_imagenet.npz")
    assert config.weights_of(config.segmenter_encoder) == str(tmp_path / "mobilenet_v2.weights.h5")
    assert config.weights_of("small_cnn") is None
    with pytest.raises(ConfigError, match="`weights_dir`: expected one file resnet50….npz or .* found none"):
        config.weights_of("resnet50")
    (tmp_path / "mobilenet_v2_other.npz").write_text("")
    with pytest.raises(ConfigError, match="found mobilenet_v2.weights.h5, mobilenet_v2_other.npz"):
        config.weights_of("mobilenet_v2")


def test_weights_need_a_backbone_that_has_some():
    with pytest.raises(ConfigError, match="small_cnn has no pretrained weights"):
        ComparisonConfig(data="d", backbone="small_cnn", weights="imagenet")


class TestResolved:
    def test_without_weights(self):
        config = ComparisonConfig(data="d").resolved()
        assert (config.backbone, config.segmenter_encoder) == ("small_cnn", "none")

    def test_with_weights(self):
        config = ComparisonConfig(data="d", weights="w.npz").resolved()
        assert (config.backbone, config.segmenter_encoder) == ("mobilenet_v2", "mobilenet_v2")

    def test_what_was_chosen_stays(self):
        named = {"backbone": "mobilenet_v2", "mask_backbone": "small_cnn", "symmetry_backbone": "small_cnn"}
        chosen = ComparisonConfig(data="d", weights="w.npz", segmenter_encoder="none", **named)
        assert chosen.resolved() == chosen
        chosen = ComparisonConfig(data="d", segmenter_encoder="small_cnn", **named)
        assert chosen.resolved() == chosen
        assert ComparisonConfig(data="d", backbone="mobilenet_v2").resolved().mask_backbone == "mobilenet_v2"

    def test_again_changes_nothing(self):
        once = ComparisonConfig(data="d", weights="w.npz", epochs=7).resolved()
        assert once.resolved() == once and once.epochs == 7


def test_one_file_of_weights_and_two_branches():
    with pytest.raises(ConfigError, match="backbone mobilenet_v2 and the mask's branch resnet50: give a folder"):
        ComparisonConfig(data="d", weights="w.npz", backbone="mobilenet_v2", mask_backbone="resnet50")
    for branch in ("auto", "mobilenet_v2", "small_cnn"):
        ComparisonConfig(data="d", weights="w.npz", backbone="mobilenet_v2", mask_backbone=branch)


class TestPlain:
    @pytest.mark.parametrize(
        "config",
        [
            ComparisonConfig(data="d"),
            ComparisonConfig(data="d", weights="w", segmenter_file="s.keras", allow=("a", "b"), approaches=("plain",)),
            ComparisonConfig(data="d", segmenter_postprocessing=("fill_holes", "largest_component")),
            replace(DEMO, data="x"),
            *(replace(preset, data="x") for preset in QUICKSTART_PRESETS.values()),
        ],
    )
    def test_round_trip_through_json(self, config):
        assert from_plain(json.loads(json.dumps(to_plain(config)))) == config

    def test_an_unknown_key_suggests_the_near_one(self):
        with pytest.raises(ConfigError, match="unknown configuration key 'epoch'; did you mean 'epochs'?"):
            from_plain({"data": "d", "epoch": 3})
        with pytest.raises(ConfigError, match="unknown configuration key 'xyzzy'$"):
            from_plain({"data": "d", "xyzzy": 3})

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("epochs", "3"),
            ("epochs", 3.0),
            ("epochs", True),
            ("epochs", None),
            ("learning_rate", "0.1"),
            ("learning_rate", True),
            ("flips", 1),
            ("flips", "yes"),
            ("zoom", True),
            ("zoom", "0.1"),
            ("background_swap", None),
            ("augmentation", "cubist"),
            ("balance", "up"),
            ("data", 3),
            ("data", None),
            ("weights", 3),
            ("resize", "crop"),
            ("resize", None),
            ("segmenter_flips", None),
            ("segmenter_postprocessing", "fill_holes"),
            ("segmenter_postprocessing", ["erode"]),
            ("approaches", "plain"),
            ("approaches", ["plain", "magic"]),
            ("approaches", [1]),
            ("allow", "truncated"),
        ],
        ids=str,
    )
    def test_wrong_types_are_refused(self, key, value):
        with pytest.raises(ConfigError, match=f"`{key}` must be .*received"):
            from_plain({"data": "d", key: value})

    def test_a_whole_number_is_a_float_too(self):
        read = from_plain({"data": "d", "rotation": 45, "dropout": 0, "shear": None, "flips": False})
        assert (read.rotation, read.dropout, read.shear, read.flips) == (45.0, 0.0, None, False)

    def test_the_checks_run(self):
        with pytest.raises(ConfigError, match="`epochs`"):
            from_plain({"data": "d", "epochs": 0})

    def test_data_is_needed(self):
        with pytest.raises(ConfigError, match="data"):
            from_plain({"epochs": 3})


def test_presets_are_runnable_and_different():
    assert list(QUICKSTART_PRESETS) == ["quick", "probe", "paper"]
    probe = replace(QUICKSTART_PRESETS["probe"], data="d").resolved()
    assert (probe.training, probe.approaches, probe.segmenter) == ("probe", ("plain",), "none")
    for preset in (DEMO, *(QUICKSTART_PRESETS[name] for name in ("quick", "paper"))):
        config = replace(preset, data="d").resolved()
        assert set(config.approaches) == {"plain", "hard_mask", "soft_mask", "centiou"}
        assert config.image_size % 2**config.segmenter_depth == 0
    paper, quick = QUICKSTART_PRESETS["paper"], QUICKSTART_PRESETS["quick"]
    assert paper.epochs > quick.epochs > 0 and paper.image_size > quick.image_size


def test_the_recipes_that_can_be_named_are_the_ones_there_are():
    from typing import get_args, get_type_hints

    from tfseg.data.augment import RECIPES
    from tfseg.data.balance import METHODS

    hints = get_type_hints(ComparisonConfig)
    assert get_args(hints["augmentation"]) == tuple(RECIPES)
    assert get_args(hints["balance"]) == METHODS


def test_the_configuration_needs_no_tensorflow():
    code = "import sys, tfseg.config; sys.exit(any(name in sys.modules for name in ('tensorflow', 'keras', 'pandas')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


class TestSession:
    ROWS = ("plain", "hard_mask", "centiou")

    @pytest.mark.parametrize(
        ("asked", "rows"),
        [
            ((), ["plain", "hard_mask", "centiou"]),
            (("centiou", "plain"), ["plain", "centiou"]),
            (("1,3",), ["plain", "centiou"]),
            (("2", "hard_mask"), ["hard_mask"]),
            (("1, 3",), ["plain", "centiou"]),
        ],
        ids=str,
    )
    def test_rows_by_name_or_number(self, asked, rows):
        assert Session(cells=asked).rows(self.ROWS) == rows

    def test_a_name_comes_before_a_number(self):
        assert Session(cells=("2",)).rows(("8", "4", "2")) == ["2"]

    @pytest.mark.parametrize("asked", ["0", "4", "magic", "1,x", "²"])
    def test_a_row_that_there_is_not(self, asked):
        with pytest.raises(ConfigError, match="`cells`: there is no row .*1 plain, 2 hard_mask, 3 centiou"):
            Session(cells=(asked,)).rows(self.ROWS)

    def test_folds(self):
        assert Session().fold_numbers(3) == [0, 1, 2]
        assert Session(folds=("2,0",)).fold_numbers(3) == [0, 2]
        assert Session(folds=("2", "0, 2")).fold_numbers(3) == [0, 2], "each once"
        for wrong in ("3", "-1", "x", "²"):
            with pytest.raises(ConfigError, match="`folds` must be numbers from 0 to 2"):
                Session(folds=(wrong,)).fold_numbers(3)

    @pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan")])
    def test_no_time(self, minutes):
        with pytest.raises(ConfigError, match="`max_minutes`"):
            Session(max_minutes=minutes)
