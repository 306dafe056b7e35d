import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from tfseg.data.audit import audit_cases
from tfseg.data.audit_page import audit_text, check_audit_folder, draw_case, write_audit
from tfseg.data.phantom import PhantomConfig, write_phantoms
from tfseg.data.sources.folder import read_folder
from tfseg.errors import RunError
from tfseg.run import read_json

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """What a page holds; raises where tags don't close in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.images, self.words = [], set(), [], [], []
        self.feed(text)
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes
        if tag == "img":
            self.images.append(dict(attributes))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)


def page_of(folder, out, **options):
    cases = read_folder(folder)
    audit = audit_cases(cases, **options)
    return Page(write_audit(audit, cases, out).read_text(encoding="utf-8")), audit


def rows_of(labels, **columns):
    return [
        {"image": f"images/{n}.png", "mask": f"masks/{n}.png", "label": label}
        | {name: values[n] for name, values in columns.items()}
        for n, label in enumerate(labels)
    ]


def shown(image):
    kind, _, content = image["src"].partition(",")
    assert kind == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def test_page_stands_alone(make_folder, tmp_path):
    page, _ = page_of(make_folder(), tmp_path / "out")
    assert not page.tags & {"script", "link", "iframe", "object"}
    for name, value in page.attributes:
        assert name not in ("href", "srcset", "onclick", "onload"), name
        assert name != "src" or value.startswith("data:image/")
    assert "default-src 'none'" in (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")
    assert "No error · 0 warnings" in page.text and "4 in 4 groups" in page.text
    assert len(page.images) == 4 and {image["alt"] for image in page.images} == set("abcd")
    assert all(shown(image).shape == (147, 176, 3) for image in page.images)


def test_names_are_escaped(make_folder, tmp_path):
    rows = [
        {"image": "images/<b>&a.png", "mask": "", "label": "<script>alert(1)</script>"},
        {"image": "images/b.png", "mask": "", "label": '" onload="x'},
    ]
    page, _ = page_of(make_folder(rows), tmp_path / "out")
    assert "script" not in page.tags and "b" in page.tags
    assert "onload" not in dict(page.attributes)
    assert "<script>alert(1)</script>" in page.text and "<b>&a" in {image["alt"] for image in page.images}


def test_a_pair_of_copies_stands_side_by_side(make_folder, tmp_path):
    folder = make_folder(rows_of("aabb", group=["p", "p", "q", "r"]))
    for old, new in ((0, 1), (0, 2)):
        (folder / "images" / f"{new}.png").write_bytes((folder / "images" / f"{old}.png").read_bytes())
    page, _ = page_of(folder, tmp_path / "out")
    text = (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")
    pairs = [Page(part.split("</div>")[0]) for part in text.split('<div class="pair">')[1:]]
    assert [[image["alt"] for image in pair.images] for pair in pairs] == [["0", "2"], ["0", "1"]]
    assert "Copies within a group" in page.text and "1 error ·" in page.text


def test_many_problems_are_capped(make_folder, tmp_path):
    folder = make_folder(rows_of("ab" * 15))
    for path in (folder / "images").iterdir():
        path.write_bytes(b"x")
    page, audit = page_of(folder, tmp_path / "out")
    assert "30 errors" in page.text and "and 10 more of this kind" in page.text and "and 18 more not shown" in page.text
    assert page.images == [] and page.text.count("can't be read") == 12 + 2 * 6
    text = audit_text(audit, limit=3)
    assert text.count("[unreadable]") == 4 and "… and 27 more [unreadable]" in text and "30 errors" in text


def test_contour_lies_where_the_mask_ends(make_folder, pictures):
    folder = make_folder()
    Image.new("RGB", (48, 40), (200, 30, 200)).save(folder / "images" / "a.png")
    pictures[1]().save(folder / "masks" / "a.png")
    cases = read_folder(folder)
    pixels = shown({"src": "data:image/jpeg;base64," + draw_case(cases, 0)}).astype(int)
    green = (pixels[..., 1] > 150) & (pixels[..., 0] < 120)
    # The mask is the inner half of the picture, and the picture is enlarged 176 / 48 times.
    rows, columns = np.nonzero(green)
    expected = [10 * 176 / 48, 30 * 176 / 48, 12 * 176 / 48, 36 * 176 / 48]
    np.testing.assert_allclose([rows.min(), rows.max(), columns.min(), columns.max()], expected, atol=1.5)
    (folder / "masks" / "a.png").write_bytes(b"x")
    plain = shown({"src": "data:image/jpeg;base64," + draw_case(cases, 0)})
    assert np.ptp(plain.reshape(-1, 3), axis=0).max() < 5
    (folder / "images" / "a.png").write_bytes(b"x")
    assert draw_case(cases, 0) is None


def test_leak_and_parts_are_on_the_page(tmp_path):
    folder = write_phantoms(PhantomConfig(images=60, size=40, seed=2, classes=("x", "y")), tmp_path / "data")
    page, audit = page_of(folder, tmp_path / "out")
    assert "What the files give away" in page.text and "border colour" in page.text
    assert len(page.images) == 12
    record = read_json(tmp_path / "out" / "audit.json")
    assert record["leak"]["score"]["balanced_accuracy"] == audit.leak.score.balanced_accuracy
    assert set(record["leak"]) == {"score", "by_fact", "chance", "cases", "classes", "medians", "carriers"}


def test_text_counts_cases_groups_and_masks(make_folder):
    rows = rows_of("aab", split=["train", "test", "test"], group=["p", "q", "q"])
    rows[0]["mask"] = ""
    text = audit_text(audit_cases(read_folder(make_folder(rows))))
    lines = [line.split() for line in text.splitlines()]
    assert ["train", "val", "test", "all", "with", "mask"] in lines
    assert ["a", "1", "0", "1", "2", "1"] in lines and ["all", "1", "0", "2", "3", "2"] in lines
    assert ["all", "1", "0", "1", "2"] in lines, "two groups in all, though both classes have one in the test part"
    assert "0 errors" in text and "2 warnings:" in text, text


def test_folder_of_something_else_is_refused(tmp_path, make_folder):
    out = tmp_path / "out"
    check_audit_folder(out)
    page_of(make_folder(), out)
    check_audit_folder(out)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("")
    with pytest.raises(RunError, match="is not empty"):
        check_audit_folder(tmp_path / "full")
    with pytest.raises(RunError, match="is a file"):
        check_audit_folder(tmp_path / "full" / "thesis.txt")
