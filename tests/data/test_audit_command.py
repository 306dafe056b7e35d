import pytest

from tfseg import cli
from tfseg.data.phantom import PhantomConfig, write_phantoms
from tfseg.data.sources.folder import read_folder
from tfseg.data.splits import Split, split_cases, write_split
from tfseg.run import read_json


@pytest.fixture
def folder(tmp_path):
    config = PhantomConfig(images=24, size=32, images_per_group=1.0, classes=("x", "y"))
    return write_phantoms(config, tmp_path / "data")


def call(*words):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["audit", *map(str, words)])
    return stopped.value.code


def test_page_and_record_are_written_again_and_nothing_else_is_touched(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert call(folder, "--out", out) == 0
    assert sorted(path.name for path in out.iterdir()) == ["audit.html", "audit.json"]
    assert str(out / "audit.html") in capsys.readouterr().out and read_json(out / "audit.json")["ok"]
    path = sorted((folder / "images").iterdir())[0]
    path.write_bytes(path.read_bytes()[:-200])
    assert call(folder, "--out", out) == 1
    assert read_json(out / "audit.json")["problems"][0]["kind"] == "truncated"
    before = sorted(folder.iterdir())
    assert call(folder, "--out", folder) == 2
    assert "holds no audit.json" in capsys.readouterr().err and sorted(folder.iterdir()) == before


def test_all_folds_of_a_split_file_are_audited(folder, tmp_path, capsys):
    images = sorted((folder / "images").iterdir())
    images[1].write_bytes(images[0].read_bytes())
    # Whatever the labels are: the file decides on the parts, and the copies stand together in the first fold only.
    cases = read_folder(folder)
    rest = list(range(2, 24))
    together = Split([0, 1, *rest[4:]], rest[:2], rest[2:4], "fold_1")
    apart = Split([0, *rest[4:]], rest[:2], [1, *rest[2:4]], "fold_2")
    write_split([together], cases, tmp_path / "one.json")
    write_split([together, apart], cases, tmp_path / "both.json")
    options = ("--allow", "duplicate_across_labels")
    assert call(folder, "--split-file", tmp_path / "one.json", *options) == 0
    assert call(folder, "--split-file", tmp_path / "both.json", *options) == 1
    out = capsys.readouterr().out
    assert "parts train and test of fold_2 [duplicate_across_parts]" in out and "fold_1 train" in out


def test_a_split_file_of_other_data_is_the_users_mistake(folder, tmp_path, capsys):
    cases = read_folder(folder)
    write_split(split_cases(cases), cases, tmp_path / "splits.json")
    table = (folder / "labels.csv").read_text().splitlines()
    (folder / "labels.csv").write_text("\n".join(table[:-1]))
    assert call(folder, "--split-file", tmp_path / "splits.json") == 2
    assert "names ids that the data doesn't have" in capsys.readouterr().err


def test_problems_of_the_table_are_all_listed(folder, capsys):
    for path in (folder / "images").iterdir():
        path.unlink()
    assert call(folder) == 1
    out = capsys.readouterr().out
    assert "24 errors in" in out and out.count("[missing_file]") == 24
