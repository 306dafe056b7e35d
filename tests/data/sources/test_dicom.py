import io
import warnings

import numpy as np
import pytest
from PIL import Image

from tfseg.data.ingest import read_image, read_mask
from tfseg.data.sources import load_cases

pytest.importorskip("pydicom", reason="pydicom is missing: pip install 'tfseg[dicom]'")

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGLSLossless, generate_uid

NAME = "Mustermann^Erika"
RAMP = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
WINDOW = {"WindowCenter": [100, 7], "WindowWidth": [11, 7], "RescaleIntercept": 0}
COLOURS = np.stack([RAMP, 255 - RAMP, RAMP // 2], axis=-1)


def write(layout, path, pixels, photometric="RGB", bits=8, data=None, syntax=ExplicitVRLittleEndian, **attributes):
    """A DICOM file of these pixels, of a patient with a name; `data` in place of the pixels' bytes."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.4"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.PatientName, dataset.PatientID = NAME, "4711"
    dataset.PatientBirthDate, dataset.PatientAge, dataset.PatientSex = "19310203", "093Y", "F"
    dataset.Modality, dataset.BodyPartExamined = "XC", "SKIN"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated = 8 * pixels.dtype.itemsize
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.PixelData = pixels.tobytes() if data is None else data
    for name, value in attributes.items():
        setattr(dataset, name, value)
    file = layout._path(path)
    dataset.save_as(file, enforce_file_format=True)
    return file


def picture(read):
    """The pixels of the only case, (H, W, 3)."""
    cases = read("dicom")
    assert len(cases) == 1
    return read_image(cases.table["image"][0])


@pytest.fixture
def folder(layout):
    write(layout, f"naevus/{NAME}/1.dcm", COLOURS, PatientID="A")
    write(layout, f"naevus/{NAME}/2", COLOURS[::-1].copy(), PatientID="A", PatientAge="041Y", PatientSex="M")
    write(layout, "melanoma/x.IMA", COLOURS[:, ::-1].copy(), PatientID="B", PatientAge="")
    layout.text("melanoma/notes.txt", "…")
    layout.text("melanoma/README", "…")
    write(layout, "melanoma/DICOMDIR", COLOURS)
    return layout


def test_class_folders(folder, read):
    cases = read("dicom")
    assert sorted(cases.table["label"]) == ["melanoma", "naevus", "naevus"]
    by_label = cases.table.groupby("label")["group"].agg(set).to_dict()
    assert len(by_label["naevus"]) == 1 and by_label["naevus"] != by_label["melanoma"]
    assert sorted(cases.table["age"].dropna()) == ["41", "90"]
    assert set(cases.table["sex"]) == {"F", "M"} and set(cases.table["body_part"]) == {"SKIN"}
    assert (read_image(cases.table["image"][0]) == COLOURS[:, ::-1]).all()


def test_nothing_names_the_patient(folder, read, own_cache, capfd):
    cases = read("dicom")
    shown = cases.table.to_csv() + str(cases.notes) + "".join(capfd.readouterr())
    for image in cases.table["image"]:
        with open(image, "rb") as file:
            shown += image + file.read().decode("latin-1")
        assert Image.open(image).info == {} and image.startswith(str(own_cache))
    for secret in ("Mustermann", "Erika", "1931", "4711", "x.IMA"):
        assert secret not in shown
    assert set(cases.table["group"]) & {"A", "B", "patient_A", "patient_B"} == set()


def test_ids_follow_the_file_and_groups_the_dataset(folder, read, tmp_path):
    before = read("dicom").table.set_index("id")
    (folder.root / "naevus" / NAME / "1.dcm").rename(folder.root / "naevus" / "z.dcm")
    after = read("dicom").table.set_index("id")
    assert set(before.index) == set(after.index)
    assert before["group"].to_dict() == after["group"].to_dict()
    write(folder, "naevus/3.dcm", COLOURS // 2, PatientID="A")
    grown = read("dicom").table.set_index("id")
    assert set(before.index) < set(grown.index)
    assert not set(grown["group"]) & set(before["group"])
    assert grown["group"].nunique() == 2


def test_table(layout, read):
    for number, patient in ((1, "A"), (2, "A"), (3, "")):
        write(layout, f"files/{number}.dcm", COLOURS // number, PatientID=patient)
    layout.values("masks/1.png", (RAMP > 100).astype(np.uint8) * 255)
    layout.text(
        "labels.csv",
        "file,label,mask,split,Patient_ID,site",
        "files/1.dcm,naevus,masks/1.png,train,4711,arm",
        "files/2.dcm,melanoma,,test,4711,",
        "files/3.dcm,,,val,4711,leg",
    )
    cases = read("dicom")
    assert cases.table["label"].tolist() == ["naevus", "melanoma", None]
    assert cases.table["split"].tolist() == ["train", "test", "val"]
    assert cases.table["site"].tolist() == ["arm", None, "leg"]
    assert not {"file", "Patient_ID"} & set(cases.table)
    assert cases.groups[0] == cases.groups[1] != cases.groups[2] == cases.table["id"][2]
    assert cases.has_mask.tolist() == [True, False, False]
    assert (read_mask(cases.table["mask"][0], cases.mask_classes) == (RAMP > 100)).all()
    assert read("dicom", "site").classes == ("arm", "leg")


def test_groups_of_the_table_come_first(layout, read):
    for number in (1, 2, 3):
        write(layout, f"{number}.dcm", COLOURS // number, PatientID="A")
    layout.text("labels.csv", "file,label,group", "1.dcm,x,Erika", "2.dcm,y,Max", "3.dcm,y,Erika")
    groups = read("dicom").groups
    assert groups[0] == groups[2] != groups[1] and "Erika" not in groups


@pytest.mark.parametrize("planar", [0, 1])
def test_colour(layout, read, planar):
    data = (COLOURS.transpose(2, 0, 1) if planar else COLOURS).tobytes()
    write(layout, "x/a.dcm", COLOURS, data=data, PlanarConfiguration=planar)
    assert (picture(read) == COLOURS).all()


def test_ycbcr(layout, read):
    values = np.asarray(Image.fromarray(COLOURS).convert("YCbCr"))
    write(layout, "x/a.dcm", values, "YBR_FULL")
    assert np.abs(picture(read).astype(int) - COLOURS).max() <= 2


@pytest.mark.parametrize(
    ("pixels", "bits", "attributes", "expected"),
    [
        (RAMP, 8, {}, RAMP),
        (np.array([[0, 1, 3]], np.uint8), 2, {}, [[0, 85, 255]]),
        (np.array([[0, 15, 16, 4095]], np.uint16), 12, {}, [[0, 0, 1, 255]]),
        (np.array([[0, 255, 256, 65535]], np.uint16), 16, {}, [[0, 0, 1, 255]]),
        (np.array([[-2048, -2033, -2032, 2047]], np.int16), 12, {}, [[0, 0, 1, 255]]),
        # DICOM's linear window of centre 100 and width 11: 94.5 is black, 99.5 half, 104.5 white.
        (np.array([[0, 95, 99, 104, 105]], np.uint16), 12, WINDOW, [[0, 13, 115, 242, 255]]),
        (np.array([[0, 194, 198, 204, 210]], np.uint16), 12, {**WINDOW, "RescaleSlope": 0.5}, [[0, 64, 115, 191, 255]]),
    ],
)
def test_grey(layout, read, pixels, bits, attributes, expected):
    write(layout, "x/a.dcm", pixels, "MONOCHROME2", bits, **attributes)
    found = picture(read)
    assert found[..., 0].tolist() == np.asarray(expected).tolist() and (found == found[..., :1]).all()


def test_monochrome1_is_inverted(layout, read):
    write(layout, "x/a.dcm", RAMP, "MONOCHROME1")
    assert (picture(read)[..., 0] == 255 - RAMP).all()


def test_palette(layout, read):
    channels = {
        f"{colour}PaletteColorLookupTable{part}": value
        for colour, high in (("Red", [9, 0, 7]), ("Green", [8, 255, 6]), ("Blue", [7, 0, 5]))
        for part, value in (("Descriptor", [3, 0, 16]), ("Data", (np.array(high, np.uint16) * 256 + 3).tobytes()))
    }
    write(layout, "x/a.dcm", np.array([[0, 1], [2, 1]], np.uint8), "PALETTE COLOR", **channels)
    assert picture(read).tolist() == [[[9, 8, 7], [0, 255, 0]], [[7, 6, 5], [0, 255, 0]]]


def test_compressed(layout, read):
    smooth = np.asarray(Image.fromarray(COLOURS).resize((64, 48), Image.Resampling.BICUBIC))
    stream = io.BytesIO()
    Image.fromarray(smooth).save(stream, "JPEG", quality=95)
    data = encapsulate([stream.getvalue()])
    write(layout, "x/a.dcm", smooth, "YBR_FULL_422", data=data, syntax=JPEGBaseline8Bit)
    assert np.abs(picture(read).astype(int) - smooth).mean() < 3


def test_decoded_once(folder, read):
    paths = read("dicom").table["image"].tolist()
    with open(paths[0], "wb") as file:
        file.write(b"kept")
    assert read("dicom").table["image"].tolist() == paths
    with open(paths[0], "rb") as file:
        assert file.read() == b"kept"


def test_all_problems_at_once(layout, problems):
    write(layout, "x/frames.dcm", COLOURS, NumberOfFrames=3, data=COLOURS.tobytes() * 3)
    write(layout, "x/cut.dcm", COLOURS, data=b"12")
    file = write(layout, "x/empty.dcm", COLOURS)
    import pydicom

    dataset = pydicom.dcmread(file)
    del dataset.PixelData
    dataset.save_as(file)
    write(layout, "x/jpegls.dcm", COLOURS, data=encapsulate([b"\xff\xd8"]), syntax=JPEGLSLossless)
    write(layout, "x/odd.dcm", COLOURS, "HSV")
    layout.text("x/text.dcm", "no DICOM")
    good = write(layout, "x/good.dcm", COLOURS)
    layout._path("y/again.dcm").write_bytes(good.read_bytes())
    (layout.root / "z").mkdir()
    found = {text.split(":")[0]: (kind, text) for kind, text in problems("dicom")}
    expected = {
        "x/frames.dcm": ("unreadable", "3 frames, expected a single one"),
        "x/cut.dcm": ("unreadable", "the pixel data can't be decoded"),
        "x/empty.dcm": ("unreadable", "there is no picture in the file"),
        "x/jpegls.dcm": ("unreadable", "which nothing installed decodes: pip install pylibjpeg"),
        "x/odd.dcm": ("unreadable", "photometric interpretation 'HSV'; known: MONOCHROME1"),
        "x/text.dcm": ("unreadable", "is no DICOM file"),
        "y/again.dcm": ("stored_twice", "is x/good.dcm again, byte for byte"),
        "z": ("empty_folder", "has no DICOM files"),
    }
    assert found.keys() == expected.keys()
    for name, (kind, text) in expected.items():
        assert found[name][0] == kind and text in found[name][1]
    assert "Mustermann" not in str(found)


def test_all_problems_of_the_table(layout, problems):
    for number in (1, 2, 3, 4):
        write(layout, f"{number}.dcm", COLOURS // number)
    layout.mask("m.png", size=(4, 3))
    layout.values("grey.png", RAMP)
    layout.text(
        "labels.csv",
        "file,label,mask",
        "1.dcm,x,m.png",
        "2.dcm,y,m.png",
        "1.dcm,y,",
        "9.dcm,y,",
        "../1.dcm,y,",
        "3.dcm,y,none.png",
        "4.dcm,y,grey.png",
    )
    assert problems("dicom") == [
        ("mask_shared", "labels.csv, line 3: mask 'm.png' stands in labels.csv, line 2 already [mask_shared]"),
        ("duplicate_id", "labels.csv, line 4: file '1.dcm' stands in labels.csv, line 2 already [duplicate_id]"),
        ("missing_file", "9.dcm: the file named in labels.csv, line 5 is missing [missing_file]"),
        ("path", "labels.csv, line 6: file '../1.dcm' must be a path that stays inside the folder [path]"),
        ("missing_file", "none.png: the file named in labels.csv, line 7 is missing [missing_file]"),
        (
            "mask_values",
            "grey.png: mask values [0, 20, 40, 60, 80, 100, 120, 140, 160, 180], expected 0 and 1, or 0 and 255 "
            "[mask_values]",
        ),
    ]


def test_files_that_the_table_leaves_out_and_writing_in_the_picture(layout, notes):
    write(layout, "1.dcm", COLOURS, BurnedInAnnotation="YES")
    write(layout, f"{NAME}.dcm", COLOURS // 2)
    layout.text("labels.csv", "file,label", "1.dcm,x")
    found = notes("dicom")
    assert found["unlisted_images"] == [
        "labels.csv: names all but 1 of the DICOM files: those are left out [unlisted_images]"
    ]
    assert found["burned_in"][0].startswith("dicom_") and "may name the patient" in found["burned_in"][0]


def test_broken_values_are_not_quoted(layout, read, capfd, caplog, recwarn):
    broken = {"PatientSex": "Mustermann", "PatientID": 80 * "x", "SpecificCharacterSet": "Mustermann"}
    write(layout, "x/a.dcm", COLOURS, **broken)
    assert "Mustermann" in str([warning.message for warning in recwarn]) and caplog.records
    recwarn.clear(), caplog.clear(), capfd.readouterr()
    warnings.simplefilter("always")
    assert read("dicom").table["sex"].tolist() == [None]
    assert caplog.records == [] and list(recwarn) == [] and capfd.readouterr() == ("", "")


def test_without_pydicom(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(Exception, match=r"needs pydicom: pip install 'tfseg\[dicom\]'"):
        load_cases(f"dicom:{folder.root}")


def test_neither_table_nor_folders(layout, problems):
    write(layout, "a.dcm", COLOURS)
    assert problems("dicom") == [("no_table", "labels.csv: is missing, and there are no class folders [no_table]")]
