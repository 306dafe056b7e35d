import numpy as np
import pytest
from PIL import Image

from tfseg.data.audit import audit_cases
from tfseg.data.masks import looks_inverted
from tfseg.data.phantom import PhantomConfig, write_phantoms
from tfseg.data.sources.folder import read_folder


def found(folder, *kinds):
    return [problem for problem in audit_cases(read_folder(folder)).problems if problem.kind in kinds]


@pytest.fixture
def phantoms(tmp_path):
    return write_phantoms(PhantomConfig(images=80, size=48, seed=3), tmp_path / "data")


def test_inverted_masks(make_folder, pictures):
    lesion = np.asarray(pictures[1]()) > 0
    everything = np.ones_like(lesion)
    assert not looks_inverted(lesion, everything)
    assert looks_inverted(~lesion, everything)
    assert not looks_inverted(everything, everything)
    strip = everything.copy()
    strip[:, :3] = False
    assert not looks_inverted(strip, everything)
    counts = everything.copy()
    counts[0] = False
    assert looks_inverted(~lesion & counts, counts)
    assert not looks_inverted(~lesion & counts, everything)
    folder = make_folder()
    for name in "ab":
        Image.fromarray(~lesion).save(folder / "masks" / f"{name}.png")
    (problem,) = found(folder, "mask_inverted")
    assert (problem.kind, problem.severity, problem.file) == ("mask_inverted", "warning", "masks/a.png and 1 more")
    assert "2 of 4 masks" in problem.message and "tissue" in problem.message


class TestShared:
    def rows(self, count=4):
        return [{"image": f"images/{n}.png", "mask": f"masks/{n}.png", "label": "ab"[n % 2]} for n in range(count)]

    def own_masks(self, folder, count=4):
        for number in range(count):
            mask = np.zeros((40, 48), np.uint8)
            mask[5 + number : 20, 10:30] = 255
            Image.fromarray(mask).save(folder / "masks" / f"{number}.png")

    def test_two_images_with_one_mask(self, make_folder):
        folder = make_folder(self.rows())
        self.own_masks(folder)
        assert found(folder, "mask_shared") == []
        # Not the bytes count but what they mean: 0 and 1 say the same as 0 and 255.
        mask = np.asarray(Image.open(folder / "masks" / "1.png"))
        Image.fromarray(mask // 255).save(folder / "masks" / "3.png")
        (problem,) = found(folder, "mask_shared")
        assert (problem.severity, problem.file) == ("warning", "masks/1.png and 1 more")
        assert problem.message == "2 different images have the same mask: 1, 3"

    def test_copies_and_masks_without_content_share_rightly(self, make_folder):
        folder = make_folder(self.rows())
        self.own_masks(folder)
        for part in ("images", "masks"):
            (folder / part / "2.png").write_bytes((folder / part / "0.png").read_bytes())
        assert found(folder, "mask_shared") == []
        for numbers, value in (((0, 1), 0), ((2, 3), 255)):
            for number in numbers:
                Image.fromarray(np.full((40, 48), value, np.uint8)).save(folder / "masks" / f"{number}.png")
        assert found(folder, "mask_shared") == []


class TestMismatch:
    def masks(self, folder):
        return sorted((folder / "masks").iterdir())

    def exchange(self, first, second):
        kept = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(kept)

    def test_exchanged_masks_are_named_together(self, phantoms):
        masks = self.masks(phantoms)
        assert found(phantoms, "mask_mismatch") == []
        # Two lesions that lie apart: otherwise the exchange is hardly seen by anybody.
        centres = np.array([np.argwhere(np.asarray(Image.open(path)) > 0).mean(0) for path in masks])
        first, second = np.unravel_index(
            np.linalg.norm(centres[:, None] - centres[None], axis=2).argmax(), (len(masks), len(masks))
        )
        self.exchange(masks[first], masks[second])
        problems = found(phantoms, "mask_mismatch")
        named = " ".join(str(problem) for problem in problems)
        assert masks[first].stem in named and masks[second].stem in named
        assert all(problem.severity == "warning" for problem in problems) and len(problems) <= 2

    def test_a_mask_of_something_else(self, phantoms):
        path = self.masks(phantoms)[7]
        mask = np.zeros((48, 48), np.uint8)
        mask[:10, :12] = 1
        Image.fromarray(mask).save(path)
        (problem,) = found(phantoms, "mask_mismatch")
        assert problem.file == f"masks/{path.name}" and "1 of 80 masks" in problem.message

    def test_a_table_shifted_by_one_row(self, phantoms):
        masks = self.masks(phantoms)
        contents = [path.read_bytes() for path in masks]
        for path, content in zip(masks, contents[1:] + contents[:1], strict=True):
            path.write_bytes(content)
        (problem,) = found(phantoms, "mask_mismatch")
        assert problem.file.endswith("and 79 more") and "images of the next row" in problem.message
        for path, content in zip(masks, contents[-1:] + contents[:-1], strict=True):
            path.write_bytes(content)
        assert "images of the previous row" in found(phantoms, "mask_mismatch")[0].message

    def test_masks_that_never_follow_the_image_accuse_nobody(self, phantoms):
        rng = np.random.default_rng(0)
        for path in self.masks(phantoms):
            mask = np.zeros((48, 48), np.uint8)
            top, left = rng.integers(0, 30, 2)
            mask[top : top + 12, left : left + 12] = 1
            Image.fromarray(mask).save(path)
        assert found(phantoms, "mask_mismatch") == []

    def test_ignored_pixels_and_several_classes(self, phantoms):
        for path in self.masks(phantoms):
            mask = np.asarray(Image.open(path)).copy()
            mask[mask > 0] = 2
            mask[:6] = 255
            Image.fromarray(mask).save(path)
        (phantoms / "dataset.json").write_text(
            '{"mask_classes": ["background", "rim", "lesion"], "lesion": ["lesion"], "ignore": 255}'
        )
        audit = audit_cases(read_folder(phantoms))
        assert audit.problems == [] and audit.facts["mask_fit"]["telling"]


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "most"), [("ph2", 0), ("herlev", 0), ("oral", 0), ("ebhi_seg", 1)])
def test_real_masks_raise_few_alarms(data_folder, name, most):
    audit = audit_cases(read_folder(data_folder / name))
    assert sum(len(found.cases) for found in audit.findings if found.problem.kind == "mask_mismatch") <= most
