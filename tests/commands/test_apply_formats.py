"""`augment apply`: every format keeps its labels on the objects, and everything else of its files."""

import json
import xml.etree.ElementTree as ET

import cv2
import numpy as np
import PIL.Image
import pytest
import supervision
from datasets import load_dataset

from augment import Placement
from augment.commands.apply import run
from augment.errors import InputError
from augment.testing.pictures import scene
from tests.commands.labeled import SIZE, box_of, contour, disc, place, seen_box, true_box, yolo

MOVES = Placement(scale=(0.6, 1.0), translate="uniform", flip=0.5)
STILL = None
BOTH = pytest.mark.parametrize("placement", [STILL, MOVES], ids=["still", "moved"])


def apply(images, store, out, **settings):
    return run(images, store, out, workers=0, progress=False, **settings)


def near(found, true):
    """Within a pixel."""
    np.testing.assert_allclose(found, true, atol=1.0)


@BOTH
def test_yolo_boxes_are_around_their_objects(cache, filled, tmp_path, placement):
    root = yolo(filled[1], tmp_path / "set")
    (root / "images" / "train" / "6.png").write_bytes((root / "images" / "val" / "6.png").read_bytes())  # no label
    (root / "labels" / "train" / "5.txt").write_text("")  # nothing in it
    (root / "train.txt").write_text(f"{root}/images/train/0.png\n./images/train/1.png\n")
    (root / "classes.txt").write_text("cup\nball\npen\n")
    out = tmp_path / "out"
    summary = apply(root, cache, out, copies=2, placement=placement)
    assert (summary.composites, summary.formats, summary.copied) == (14, ("yolo",), 1)
    for number in range(5):
        before = (root / "labels" / "train" / f"{number}.txt").read_text()
        assert (out / "labels" / "train" / f"{number}.txt").read_text() == before
        for name in (f"{number}_bg1", f"{number}_bg2"):
            text = (out / "labels" / "train" / f"{name}.txt").read_text()
            assert (text == before) == (placement is None)
            label, *values = text.split()
            assert label == before[0]
            x, y, w, h = np.array(values, float) * (112, 96, 112, 96)
            near([x - w / 2, y - h / 2, x + w / 2, y + h / 2], seen_box(out / "images" / "train" / f"{name}.png"))
    assert (out / "labels" / "train" / "5_bg1.txt").read_text() == ""
    assert not list(out.glob("labels/train/6*"))
    assert (out / "data.yaml").read_text() == "train: images/train\nval: images/val\nnames: [cup, ball, pen]\n"
    assert (out / "train.txt").read_text().split() == [
        *(f"{out}/images/train/{name}.png" for name in ("0", "0_bg1", "0_bg2")),
        *(f"./images/train/{name}.png" for name in ("1", "1_bg1", "1_bg2")),
    ]


@BOTH
def test_yolo_polygons_and_poses_go_with_their_objects(cache, filled, tmp_path, placement):
    root, out = tmp_path / "set", tmp_path / "out"
    place(filled[1], root, ["images/0.png", "images/1.png"])
    (root / "labels").mkdir()
    points = " ".join(f"{value:.6f}" for value in (contour(0) / (112, 96)).ravel())
    (root / "labels" / "0.txt").write_text(f"7 {points}\n")
    left, top, right, bottom = true_box(1) / (112, 96, 112, 96)
    x, y = (left + right) / 2, (top + bottom) / 2
    (root / "labels" / "1.txt").write_text(f"0 {x} {y} {right - left} {bottom - top} {x} {y} 2 0 0 0\n")
    (root / "data.yaml").write_text("names: [cup]\nkpt_shape: [2, 3]\n")
    assert apply(root, cache, out, placement=placement).composites == 2
    label, *values = (out / "labels" / "0_bg1.txt").read_text().split()
    assert label == "7"
    polygon = np.array(values, float).reshape(-1, 2) * (112, 96)
    near([*(polygon.min(0) - 0.5), *(polygon.max(0) + 0.5)], seen_box(out / "images" / "0_bg1.png"))
    words = (out / "labels" / "1_bg1.txt").read_text().split()
    x, y, w, _, px, py = np.array(words[1:7], float)
    near((px * 112, py * 96), (x * 112, y * 96))
    near([(x - w / 2) * 112, (x + w / 2) * 112], seen_box(out / "images" / "1_bg1.png")[[0, 2]])
    assert [float(word) for word in words[7:]] == [2, 0, 0, 0]


def coco(paths, root):
    """Four scenes: a polygon, run lengths of both kinds, and a box with keypoints; two images share a name."""
    names = ["train2017/a/0.png", "train2017/b/0.png", "train2017/2.png", "train2017/3.png"]
    place(paths, root, names)
    masks = [scene(number)[1] >= 128 for number in range(4)]
    x, y = true_box(3).reshape(2, 2).mean(0)
    outlines = [
        {"segmentation": [contour(0).ravel().tolist()]},
        {"segmentation": {"counts": list(map(int, supervision.mask_to_rle(masks[1]))), "size": list(SIZE)}},
        {"segmentation": {"counts": supervision.mask_to_rle(masks[2], compressed=True), "size": list(SIZE)}},
        {"keypoints": [x - 0.5, y - 0.5, 2, 0, 0, 0], "num_keypoints": 1},
    ]
    annotations = []
    for number in range(4):
        left, top, right, bottom = true_box(number).tolist()
        annotations.append(
            {
                **{"id": 90 - number, "image_id": f"im{number}", "category_id": 17, "iscrowd": int(number == 1)},
                **{"bbox": [left, top, right - left, bottom - top], "area": int(masks[number].sum()), "mine": number},
                **outlines[number],
            }
        )
    whole = {
        "info": {"year": 2017},
        "licenses": [{"id": 3, "name": "a lîcense"}],
        "images": [
            *(
                {"id": f"im{number}", "file_name": name[10:], "height": 96, "width": 112, "license": 3}
                for number, name in enumerate(names)
            ),
            {"id": "gone", "file_name": "gone.png", "height": 1, "width": 1},
        ],
        "annotations": annotations,
        "categories": [{"id": 53, "name": "food"}, {"id": 17, "name": "cat", "supercategory": "animal"}],
    }
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(whole))
    return whole


@BOTH
def test_coco_annotations_go_with_their_objects_and_keep_all_their_fields(cache, filled, tmp_path, placement):
    root, out = tmp_path / "set", tmp_path / "out"
    before = coco(filled[1], root)
    assert apply(root, cache, out, copies=2, placement=placement).composites == 8
    after = json.loads((out / "annotations" / "instances_train2017.json").read_text())
    for name in ("info", "licenses", "categories"):
        assert after[name] == before[name]
    assert after["images"][:5] == before["images"]
    assert after["annotations"][:4] == before["annotations"]
    assert len({entry["id"] for entry in after["images"]}) == 13
    assert len({annotation["id"] for annotation in after["annotations"]}) == 12
    entries = {entry["id"]: entry for entry in after["images"]}
    for annotation in after["annotations"][4:]:
        entry = entries[annotation["image_id"]]
        first = before["annotations"][annotation["mine"]]
        assert entry["file_name"].endswith(("_bg1.png", "_bg2.png"))
        assert entry["license"] == 3
        geometry = {"id", "image_id", "bbox", "segmentation", "area", "keypoints"}
        assert {k: v for k, v in annotation.items() if k not in geometry} == {
            k: v for k, v in first.items() if k not in geometry
        }
        if placement is None:
            assert {**annotation, "id": 0, "image_id": 0} == {**first, "id": 0, "image_id": 0}
        with PIL.Image.open(out / "train2017" / entry["file_name"]) as file:
            seen = disc(file.convert("RGB"))
        left, top, width, height = annotation["bbox"]
        near([left, top, left + width, top + height], box_of(seen))
        assert abs(annotation["area"] - seen.sum()) < 0.1 * seen.sum()
        outline = annotation.get("segmentation")
        if isinstance(outline, dict):
            mask = supervision.rle_to_mask(outline["counts"], (112, 96))
            assert np.count_nonzero(mask & seen) > 0.9 * np.count_nonzero(mask | seen)
            assert type(outline["counts"]) is type(first["segmentation"]["counts"])
        elif outline:
            polygon = np.reshape(outline[0], (-1, 2))
            near([*(polygon.min(0) - 0.5), *(polygon.max(0) + 0.5)], box_of(seen))
        else:
            near(annotation["keypoints"][:2], np.array([left + width / 2, top + height / 2]) - 0.5)
            assert annotation["keypoints"][2:] == [2, 0, 0, 0]


def test_coco_without_the_originals_is_read_by_supervision(cache, filled, tmp_path):
    root, out = tmp_path / "set", tmp_path / "out"
    coco(filled[1], root)
    apply(root, cache, out, only_new=True, placement=MOVES)
    found = supervision.DetectionDataset.from_coco(
        str(out / "train2017"), str(out / "annotations" / "instances_train2017.json"), force_masks=True
    )
    assert len(found) == 4
    for _, image, detections in found:
        near(detections.xyxy[0], box_of(disc(image[..., ::-1])))


@BOTH
def test_voc_files_change_only_where_they_must(cache, filled, tmp_path, placement):
    root, out = tmp_path / "set", tmp_path / "out"
    place(filled[1], root, ["JPEGImages/2007_0.png", "JPEGImages/2007_1.png", "JPEGImages/2007_2.png"])
    for folder in ("Annotations", "SegmentationClass", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    left, top, right, bottom = (true_box(0) + np.array([1, 1, 0, 0])).astype(int).tolist()
    text = f"""<?xml version="1.0" encoding="utf-8"?>
<annotation>
\t<folder>VOC</folder><!-- a note -->
\t<filename>2007_0.png</filename>
\t<size><width>112</width><height>96</height><depth>3</depth></size>
\t<object>
\t\t<name>cät</name><pose>Unspecified</pose><truncated>1</truncated><difficult>1</difficult>
\t\t<bndbox><xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox>
\t\t<part><name>head</name><bndbox><xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></part>
\t</object>
</annotation>
"""
    (root / "Annotations" / "2007_0.xml").write_text(text)
    mask = PIL.Image.fromarray(np.where(scene(1)[1] >= 128, 12, 0).astype(np.uint8))
    mask.putpalette([0, 0, 0, *range(1, 250)])
    mask.save(root / "SegmentationClass" / "2007_1.png")
    (root / "ImageSets" / "Main" / "train.txt").write_text("2007_0\n2007_1\n")
    (root / "ImageSets" / "Main" / "cat_train.txt").write_text("2007_0  1\n2007_1 -1\n")
    (root / "ImageSets" / "Main" / "val.txt").write_text("2007_2\n")
    summary = apply(root, cache, out, placement=placement)
    assert (summary.formats, summary.composites, summary.held_out) == (("voc", "masks"), 2, 1)
    assert (out / "Annotations" / "2007_0.xml").read_text() == text
    written = (out / "Annotations" / "2007_0_bg1.xml").read_text()
    root_element = ET.fromstring(written)
    boxes = [
        [int(box.findtext(side)) for side in ("xmin", "ymin", "xmax", "ymax")] for box in root_element.iter("bndbox")
    ]
    near(np.array(boxes) - (1, 1, 0, 0), [seen_box(out / "JPEGImages" / "2007_0_bg1.png")] * 2)
    expected = text.replace("2007_0.png", "2007_0_bg1.png")
    for side, old, new in zip(("xmin", "ymin", "xmax", "ymax"), (left, top, right, bottom), boxes[0], strict=True):
        expected = expected.replace(f"<{side}>{old}</{side}>", f"<{side}>{new}</{side}>")
    assert written == expected
    with PIL.Image.open(out / "SegmentationClass" / "2007_1_bg1.png") as moved:
        assert (moved.mode, moved.getpalette()[:30]) == ("P", mask.getpalette()[:30])
        values = np.asarray(moved)
    assert set(np.unique(values)) == {0, 12}
    near(box_of(values == 12), seen_box(out / "JPEGImages" / "2007_1_bg1.png"))
    lists = out / "ImageSets" / "Main"
    assert (lists / "train.txt").read_text() == "2007_0\n2007_0_bg1\n2007_1\n2007_1_bg1\n"
    assert (lists / "cat_train.txt").read_text() == "2007_0  1\n2007_0_bg1  1\n2007_1 -1\n2007_1_bg1 -1\n"
    assert (lists / "val.txt").read_text() == "2007_2\n"


@pytest.mark.parametrize("form", ["binary", "color", "16-bit", "1-bit", "jpeg", "marked"])
def test_masks_of_every_kind_go_with_their_objects(cache, filled, tmp_path, form):
    root, out = tmp_path / "set", tmp_path / "out"
    place(filled[1], root, ["images/cup/0.png"])
    solid = scene(0)[1] >= 128
    values = {
        "binary": solid.astype(np.uint8) * 255,
        "color": solid[..., None].astype(np.uint8) * np.array([0, 128, 7], np.uint8),
        "16-bit": solid.astype(np.uint16) * 1000,
        "1-bit": solid,
        "jpeg": solid.astype(np.uint8) * 255,
        "marked": solid.astype(np.uint8),
    }[form]
    name = {"jpeg": "masks/cup/0{}.jpg", "marked": "images/cup/0{}_mask.png"}.get(form, "masks/cup/0{}.png")
    (root / name.format("")).parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(values).save(root / name.format(""))
    assert apply(root, cache, out, placement=MOVES).composites == 1
    with PIL.Image.open(root / name.format("")) as before, PIL.Image.open(out / name.format("_bg1")) as after:
        assert after.mode == before.mode
        found = np.asarray(after)
    if form != "jpeg":
        assert {tuple(np.atleast_1d(value)) for value in found.reshape(96 * 112, -1)} == {
            tuple(np.atleast_1d(value)) for value in np.asarray(values).reshape(96 * 112, -1)
        }
    labeled = (found.reshape(96, 112, -1) > (128 if form == "jpeg" else 0)).any(2)
    near(box_of(labeled), seen_box(out / "images" / "cup" / "0_bg1.png"))


@BOTH
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_hugging_face_reads_the_composites_with_their_rows(cache, filled, tmp_path, placement, kind):
    root, out = tmp_path / "set", tmp_path / "out"
    place(filled[1], root, ["train/0.png", "train/1.png", "test/2.png"])
    rows = []
    for number, name in enumerate(("0.png", "1.png", "2.png")):
        left, top, right, bottom = true_box(number).tolist()
        objects = {"bbox": [[left, top, right - left, bottom - top]], "categories": [number]}
        rows.append(
            {"file_name": name, "text": f'a "disc", {number}'} | ({"objects": objects} if kind == "jsonl" else {})
        )
    for split, chosen in (("train", rows[:2]), ("test", rows[2:])):
        if kind == "jsonl":
            (root / split / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
        else:
            lines = ["file_name,text", *(f'{row["file_name"]},"a ""disc"", {n}"' for n, row in enumerate(chosen))]
            (root / split / "metadata.csv").write_text("\n".join(lines) + "\n")
    summary = apply(root, cache, out, placement=placement)
    assert (summary.formats, summary.composites, summary.held_out) == (("hf",), 2, 1)
    if kind == "csv":  # datasets leaves such files open
        texts = [f'"a ""disc"", {number}"' for number in (0, 0, 1, 1)]
        names = ["0.png", "0_bg1.png", "1.png", "1_bg1.png"]
        lines = ["file_name,text", *map(",".join, zip(names, texts, strict=True))]
        assert (out / "train" / "metadata.csv").read_text().splitlines() == lines
        return
    found = load_dataset("imagefolder", data_dir=str(out), cache_dir=str(tmp_path / "hf"))
    assert {split: len(found[split]) for split in found} == {"train": 4, "test": 1}
    for row in found["train"]:
        assert row["text"].startswith('a "disc", ')
        left, top, width, height = row["objects"]["bbox"][0]
        near([left, top, left + width, top + height], box_of(disc(row["image"])))


def test_labels_that_cannot_be_understood_keep_their_image_as_it_is(cache, filled, tmp_path):
    root, out = tmp_path / "set", tmp_path / "out"
    coco(filled[1], root)
    file = root / "annotations" / "instances_train2017.json"
    whole = json.loads(file.read_text())
    whole["annotations"][0]["segmentation"] = [[1, 2, 3]]
    whole["annotations"][1]["segmentation"]["counts"] = [5]
    whole["annotations"][3]["bbox"] = ["a", 1, 2, 3]
    whole["images"][2] |= {"height": 960, "width": 1120}
    file.write_text(json.dumps(whole))
    summary = apply(root, cache, out)
    assert summary.composites == 0
    assert summary.failed
    told = summary.kept["labels not understood"]
    assert [one.partition(": ")[0] for one in told] == [f"train2017/{n}.png" for n in ("2", "3", "a/0", "b/0")]
    assert "its coco labels are for an image of (960, 1120), and it is (96, 112)" in told[0]
    assert "instances_train2017.json, annotation 87: bbox: ['a', 1, 2, 3] are not numbers" in told[1]
    file.write_text(json.dumps(whole | {"annotations": [{"segments_info": [], "image_id": "im0"}]}))
    with pytest.raises(InputError, match="panoptic annotations cannot be applied"):
        apply(root, cache, tmp_path / "new")


def test_a_label_file_that_is_no_text_keeps_its_image_as_it_is(cache, filled, tmp_path):
    root = yolo(filled[1], tmp_path / "set")
    (root / "labels" / "train" / "0.txt").write_bytes(b"\xff\xfe\x00")
    (root / "labels" / "train" / "1.xml").write_bytes(b"<annotation>\xff</annotation>")
    summary = apply(root, cache, tmp_path / "out")
    assert summary.formats == ("yolo", "voc")
    assert summary.composites == 4
    assert {reason: len(images) for reason, images in summary.kept.items()} == {
        **{"labels not understood": 2},
    }
    assert "0.txt: it cannot be read as text" in str(summary)


def test_images_that_share_a_label_file_stay_as_they_are(cache, filled, tmp_path):
    root = yolo(filled[1], tmp_path / "set")
    with PIL.Image.open(root / "images" / "train" / "0.png") as file:
        file.save(root / "images" / "train" / "0.webp", lossless=True)
    summary = apply(root, cache, tmp_path / "out")
    assert summary.composites == 5
    assert len(summary.kept["doubtful"]) == 2


def test_labels_of_a_turned_photograph_are_those_of_how_it_is_seen(cache, filled, tmp_path):
    root, out = tmp_path / "set", tmp_path / "out"
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    first = min(filled[1], key=lambda path: path.name)
    with PIL.Image.open(first) as file:  # upright, its pixels are those of the cache
        file.transpose(PIL.Image.Transpose.ROTATE_90).save(root / "images" / "0.png", exif=exif)
    left, top, right, bottom = true_box(0) / (112, 96, 112, 96)
    (root / "labels" / "0.txt").write_text(
        f"0 {(left + right) / 2} {(top + bottom) / 2} {right - left} {bottom - top}\n"
    )
    assert apply(root, cache, out, placement=MOVES).composites == 1
    with PIL.Image.open(out / "images" / "0_bg1.png") as file:
        assert (file.size, 0x0112 in file.getexif()) == ((112, 96), False)
    x, y, w, h = np.array((out / "labels" / "0_bg1.txt").read_text().split()[1:], float) * (112, 96, 112, 96)
    near([x - w / 2, y - h / 2, x + w / 2, y + h / 2], seen_box(out / "images" / "0_bg1.png"))


def test_an_object_with_a_label_is_never_painted_over(cache, filled, tmp_path):
    root, out = tmp_path / "set", tmp_path / "out"
    place(filled[1], root, ["images/0.png"])
    mask = scene(0)[1] >= 128
    cv2.rectangle(second := np.zeros(SIZE, np.uint8), (3, 70), (14, 90), 255, -1)  # on the ground, not in the matte
    (root / "masks").mkdir()
    PIL.Image.fromarray(np.maximum(second, mask.astype(np.uint8) * 255)).save(root / "masks" / "0.png")
    assert apply(root, cache, out, copies=2).composites == 2
    for name in ("0_bg1", "0_bg2"):
        with PIL.Image.open(out / "images" / f"{name}.png") as file:
            np.testing.assert_array_equal(np.asarray(file)[second > 0], scene(0)[0][second > 0])
