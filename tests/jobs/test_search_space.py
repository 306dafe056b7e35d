"""The words of `--fields`: what they mean, and what is refused before anything is trained."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace

import pytest

from tfseg.config import CENTIOU_FIELDS, CLASSIFIER_FIELDS, ComparisonConfig
from tfseg.errors import ConfigError
from tfseg.jobs.search import space as search_space
from tfseg.jobs.search.space import combinations, plan_search, read_field, space_text
from tfseg.spaces import Choices, Range

PLAIN = ComparisonConfig(data="d", approaches=("plain",))
CENTIOU = replace(PLAIN, approaches=("centiou",))
SHARES = (0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)


@pytest.mark.parametrize(
    ("word", "name", "space"),
    [
        ("learning_rate", "learning_rate", Range(1e-7, 1e-2, log=True)),
        ("learning-rate=1e-7..2e-4:log", "learning_rate", Range(1e-7, 2e-4, log=True)),
        ("momentum=0.8..0.99", "momentum", Range(0.8, 0.99)),
        # In floating point (0.9 − 0.4) // 0.05 is 9, which would leave the last of the eleven out.
        ("cross_entropy_share", "cross_entropy_share", Choices(*SHARES)),
        # And 0.6 / 0.1 is 5.999….
        ("dropout", "dropout", Choices(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)),
        ("cross_entropy_share=0.4..0.9:0.05", "cross_entropy_share", Choices(*SHARES)),
        ("epochs=10..30:10", "epochs", Choices(10, 20, 30)),
        ("epochs=10..35:10", "epochs", Choices(10, 20, 30)),
        ("batch_size=8,16,32", "batch_size", Choices(8, 16, 32)),
        ("dropout=0,0.5", "dropout", Choices(0.0, 0.5)),
        ("class_weights", "class_weights", Choices(True, False)),
        ("class_weights=false,true", "class_weights", Choices(False, True)),
        ("flips=none,true", "flips", Choices(None, True)),
        ("zoom=0..0.3", "zoom", Range(0.0, 0.3)),
        ("weights=../a.npz,imagenet", "weights", Choices("../a.npz", "imagenet")),
        ("backbone=resnet34,vit_b16", "backbone", Choices("resnet34", "vit_b16")),
        ("monitor", "monitor", Choices("val_loss", "val_accuracy", "val_balanced_accuracy")),
    ],
)
def test_words(word, name, space):
    found = read_field(word)
    assert found == (name, space)
    assert [type(value) for value in getattr(found[1], "values", ())] == [
        type(value) for value in getattr(space, "values", ())
    ]
    if isinstance(space, Choices) or space.log:
        assert read_field(f"{name}={space_text(space)}") == found, "as recorded, it reads the same"


def test_auto_is_no_value_to_try():
    _, space = read_field("backbone")
    assert "auto" not in space.values and "resnet34" in space.values


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("lerning_rate", "no field 'lerning_rate'; did you mean 'learning_rate'"),
        ("epochs", "no space is declared beside epochs; give one, such as epochs=10..50:10"),
        ("zoom", "such as zoom=0.1..0.5"),
        ("epochs=5..20", "give a whole step, such as epochs=5..20:1"),
        ("epochs=5..20:2.5", "epochs takes a whole number, received '2.5'"),
        ("epochs=5..20:log", "give a whole step"),
        ("epochs=5.5,7", "epochs takes a whole number, received '5.5'"),
        ("epochs=5..6:3", "one value only"),
        ("learning_rate=1e-4", "a single one is set with `--learning-rate`"),
        ("learning_rate=a..b", "learning_rate takes a number, received 'a'"),
        ("learning_rate=1e-3..nan", "learning_rate takes a number, received 'nan'"),
        ("learning_rate=1e-3..1e-4", "low < high"),
        ("learning_rate=0..1e-4:log", "low above 0"),
        ("batch_size=8,8", "at least two different values"),
        ("class_weights=1,0", "class_weights takes true or false, received '1'"),
        ("monitor=val_loss,x", "monitor takes val_loss, val_accuracy, val_balanced_accuracy; received 'x'"),
        ("weights=a,", "weights takes a text, received ''"),
    ],
)
def test_wrong_words(word, message):
    with pytest.raises(ConfigError, match="`fields`|range") as caught:
        plan_search(PLAIN, [word])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("config", "words", "options", "message"),
    [
        (ComparisonConfig(data="d"), ["dropout"], {}, "one approach, received plain, hard_mask"),
        (replace(PLAIN, approaches=("oracle",)), ["dropout"], {}, "oracle is a control"),
        (PLAIN, [], {}, "declared beside a field are: .*learning_rate"),
        (PLAIN, ["dropout", "dropout=0.1,0.2"], {}, "names dropout twice"),
        (PLAIN, ["split_seed=1,2"], {}, "measured on the same cases"),
        (PLAIN, ["approaches=plain,centiou"], {}, "approaches takes|same cases"),
        (PLAIN, ["deterministic=true,false"], {}, "no setting of the training"),
        (PLAIN, ["cross_entropy_share"], {}, "no effect on plain"),
        (PLAIN, ["segmenter_width"], {}, "--part segmenter"),
        (PLAIN, ["segmenter_flips=none,both"], {"part": "segmenter"}, "judged by its training"),
        (PLAIN, ["abstain_share=0,0.1"], {}, "judged by its training"),
        (PLAIN, ["dropout"], {"part": "segmenter"}, "no effect on the segmenter"),
        (PLAIN, ["dropout"], {"objective": "val_iou"}, "one of val_balanced_accuracy"),
        (PLAIN, ["momentum"], {"part": "segmenter", "objective": "val_accuracy"}, "one of val_iou"),
        (PLAIN, ["class_weights"], {"objective": "val_loss"}, "can't compare trials that differ in class_weights"),
        (PLAIN, ["epochs=5,10"], {"tuner": "hyperband"}, "hyperband sets epochs itself"),
        (PLAIN, ["dropout"], {"trials": 1}, "`trials` must be at least 2"),
        (PLAIN, ["learning_rate=0..1"], {}, "would try learning_rate=0.0: `learning_rate` must be above 0"),
        (PLAIN, ["dropout=0.5..1.5"], {}, "would try dropout=1.5"),
        (PLAIN, ["backbone=small_cnn,resnet34", "weights=none,w.npz"], {}, "small_cnn, weights=w.npz"),
        (replace(PLAIN, approaches=("soft_mask",)), ["image_size=32,64"], {}, "which are of one size"),
        (replace(PLAIN, approaches=("soft_mask",)), ["hair_removal=true,false"], {}, "of one size and these images"),
        (replace(PLAIN, approaches=("se_lcn",)), ["image_size=32,64"], {}, "which are of one size"),
        (replace(PLAIN, approaches=("se_lcn",)), ["symmetry_epochs=5,10"], {}, "one symmetry network's maps"),
        (replace(PLAIN, approaches=("se_lcn",)), ["symmetry_learning_rate"], {}, "one symmetry network's maps"),
        (replace(PLAIN, approaches=("se_lcn_shuffled",)), ["dropout"], {}, "se_lcn_shuffled is a control"),
        (replace(PLAIN, cross_validation=2), ["test_fraction=0.1,0.2"], {}, "measured on the same cases"),
        (replace(PLAIN, segmenter_file="s.keras"), ["momentum"], {"part": "segmenter"}, "segmenter_file"),
    ],
)
def test_what_could_not_be_compared_or_trained_is_refused(config, words, options, message):
    with pytest.raises(ConfigError, match=message):
        plan_search(config, words, **options)


def test_defaults():
    plan = plan_search(PLAIN, ["dropout", "class_weights"])
    assert (plan.trials, plan.objective, plan.direction) == (15, "val_balanced_accuracy", "max")
    assert plan_search(PLAIN, ["dropout"], objective="val_loss").direction == "min"
    assert plan_search(PLAIN, ["dropout"], tuner="hyperband").trials is None
    segmenter = plan_search(ComparisonConfig(data="d"), ["segmenter_width", "momentum"], part="segmenter")
    assert (segmenter.objective, segmenter.epochs_field) == ("val_iou", "segmenter_epochs")


def test_combinations():
    assert combinations({"a": Choices(1, 2, 3), "b": Choices(True, False)}) == 6
    assert combinations({"a": Choices(1, 2), "b": Range(0.0, 1.0)}) is None


def test_the_names_are_fields_and_approaches():
    known = {entry.name for entry in fields(ComparisonConfig)}
    of_data, of_machine = search_space.OF_DATA, search_space.OF_MACHINE
    assert {*of_data, *of_machine, *CENTIOU_FIELDS, *CLASSIFIER_FIELDS, *search_space.OF_LOSS} <= known


def test_mistakes_are_found_without_tensorflow():
    code = (
        "import sys\nfrom tfseg.commands.search import Search\n"
        "try: Search(data='d', approaches=('plain',), fields=('lerning_rate',))\n"
        "except Exception as error: print(type(error).__name__, 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["ConfigError", "False"], done.stderr
