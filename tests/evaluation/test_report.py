"""Records of a run: the shape of metrics.json, tables, and the page."""

import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from tfseg.errors import RunError
from tfseg.evaluation.report import write_metrics, write_report
from tfseg.evaluation.statistics import summarise
from tfseg.evaluation.tables import command_block, table_cells, table_markdown, table_text

COMMAND = "tfseg train $TFSEG_DATA/ph2 --approach plain"
PER_CLASS = {
    "nv": {"precision": 0.5, "recall": 1.0, "f1": 2 / 3, "specificity": 0.0, "support": 1234},
    "mel": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "specificity": 1.0, "support": 1},
}


def rows():
    return [
        {
            "name": "plain | <b>x</b>",
            "settings": {"lr": 1e-4},
            "metrics": {
                "dice": summarise([0.9, 0.92, 0.94]),
                "accuracy": summarise([0.7, 0.8, 0.9]),
                "parameters": summarise([1234567]),
            },
            "paper": {"accuracy": 0.8125},
            "per_class": PER_CLASS,
            "confusion": [[1233, 1], [1, 0]],
        },
        {
            "name": "soft",
            "settings": {},
            "metrics": {"accuracy": summarise([0.85], (0.8, 0.9))},
            "paper": None,
        },
    ]


def write(folder, **changes):
    arguments = {
        "experiment": "oral",
        "preset": "quick",
        "seed": 3,
        "data": "$TFSEG_DATA/ph2",
        "command": COMMAND,
        "seconds": 3723.44,
        "rows": rows(),
    }
    return write_metrics(folder, **(arguments | changes))


@pytest.fixture
def metrics(tmp_path):
    return json.loads(write(tmp_path).read_text())


def test_metrics_have_the_agreed_shape(metrics):
    assert list(metrics) == ["experiment", "preset", "seed", "data", "command", "seconds", "rows"]
    row = metrics["rows"][1]
    assert row["metrics"]["accuracy"] == {"mean": 0.85, "std": None, "ci95": [0.8, 0.9], "values": [0.85]}
    assert row["paper"] is None and metrics["rows"][0]["paper"] == {"accuracy": 0.8125}


def test_misshapen_rows_are_refused(tmp_path):
    row = rows()[1]
    with pytest.raises(ValueError, match="metric 'dice' of row 'soft' must be a summary"):
        write(tmp_path, rows=[row | {"metrics": {"dice": 0.9}}])
    with pytest.raises(ValueError, match="different names"):
        write(tmp_path, rows=[row, row])
    with pytest.raises(ValueError, match="name, settings and metrics"):
        write(tmp_path, rows=[{"name": "x", "metrics": {}}])
    with pytest.raises(ValueError, match="seed"):
        write(tmp_path, extra={"seed": 4})
    assert not (tmp_path / "metrics.json").exists()
    assert json.loads(write(tmp_path, extra={"note": "x"}).read_text())["note"] == "x"


def test_cells(metrics):
    header, lines = table_cells(metrics)
    assert header == ["name", "accuracy", "accuracy (paper)", "dice", "parameters"]
    # t(0.975, 2) · 0.1 / √3 = 0.2484
    assert lines[0][1:] == ["0.800 ± 0.248", "0.812", "0.920 ± 0.050", "1,234,567"]
    assert lines[1][1:] == ["0.850 [0.800, 0.900]", "–", "–", "–"]
    assert table_cells(metrics, ["dice"])[0] == ["name", "dice"]
    with pytest.raises(ValueError, match="'kappa'"):
        table_cells(metrics, ["kappa"])


def test_undefined_means_are_dashes(tmp_path):
    row = {"name": "a", "settings": {}, "metrics": {"auc": summarise([float("nan"), 0.5])}}
    metrics = json.loads(write(tmp_path, rows=[row]).read_text())
    assert table_cells(metrics)[1] == [["a", "–"]]


def test_markdown(metrics):
    lines = table_markdown(metrics).splitlines()
    # Masks and classifiers apart, each with the columns worth reading.
    assert lines[:2] == ["| name | dice |", "| --- | ---: |"]
    assert lines[2] == "| plain \\| &lt;b>x&lt;/b> | 0.920 ± 0.050 |"
    assert lines[4:6] == ["| name | accuracy | accuracy (paper) |", "| --- | ---: | ---: |"]
    assert lines[6].startswith("| plain \\| &lt;b>x&lt;/b> | 0.800 ± 0.248 | 0.812 |")
    assert lines[-3:] == ["```sh", COMMAND, "```"]
    text = "\n".join(lines)
    assert "over 3 folds or runs (Student t)" in text and "bootstrap" in text
    assert "preset quick, seed 3, data $TFSEG_DATA/ph2, 1 h 02 min" in text


def test_a_command_cannot_leave_its_block():
    assert command_block("tfseg train d \\\n  --out o") == ["```sh", "tfseg train d \\   --out o", "```"]
    assert command_block("echo ```` d") == ["`````sh", "echo ```` d", "`````"]


def test_text_fits_the_terminal(metrics):
    text = table_text(metrics, width=50)
    assert all(len(line) <= 50 for line in text.split("\n\n±")[0].splitlines())
    for cell in ("0.800 ± 0.248", "0.850 [0.800, 0.900]", "0.920 ± 0.050", "plain | <b>x</b>"):
        assert cell in text
    assert table_text(metrics, width=200).count("plain | <b>x</b>") == 2


def test_rows_of_another_kind_keep_all_their_numbers(tmp_path):
    row = {"name": "step", "settings": {}, "metrics": {"latency_ms": summarise([2.0, 4.0])}}
    assert "latency_ms" in table_text(json.loads(write(tmp_path, rows=[row]).read_text()))


class Page(HTMLParser):
    """Tags and text of a page; checks that tags are closed in order."""

    VOID = {"meta", "img", "link", "br"}

    def __init__(self, content):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(content)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def test_report_holds_everything_and_needs_nothing(tmp_path, metrics):
    (tmp_path / "figures").mkdir()
    Image.new("RGB", (3, 2), "red").save(tmp_path / "figures" / "loss_curve.png")
    (tmp_path / "config.json").write_text('{"experiment": "oral", "train": {"batch_size": 32, "x": "<script>"}}')
    (tmp_path / "data.json").write_text('{"counts": {"nv": 900}}')
    (tmp_path / "environment.json").write_text('{"python": "3.11.0", "devices": ["CPU", "GPU"], "commit": null}')
    content = write_report(tmp_path).read_text(encoding="utf-8")
    page = Page(content)
    text = " ".join(" ".join(page.text).split())
    for piece in (
        "oral", COMMAND, "0.800 ± 0.248", "plain | <b>x</b>", "1,234", "1,233", "0.667", "loss curve",
        "train.batch_size 32", "<script>", "counts.nv 900", "CPU, GPU", "1 h 02 min",
    ):  # fmt: skip
        assert piece in text, piece
    assert "<script" not in content and "<b>" not in content
    sources = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(sources) == 1 and sources[0].startswith("data:image/png;base64,iVBOR")
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object"}
    assert not re.search(r"https?://|url\(|@import", content)


def test_missing_pieces_are_left_out(tmp_path):
    page = Page(write_report(tmp_path).read_text())
    assert "not finished" in " ".join(page.text)
    headings = [tag for tag, _ in page.tags if tag == "h2"]
    assert headings == []
    write(tmp_path, rows=[rows()[1]])
    assert [tag for tag, _ in Page(write_report(tmp_path).read_text()).tags].count("h2") == 1
    write(tmp_path, rows=[])
    Page(write_report(tmp_path).read_text())


def test_unusable_folders_are_refused(tmp_path):
    with pytest.raises(RunError, match="not a folder"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunError, match=r"config\.json is not valid JSON"):
        write_report(tmp_path)
