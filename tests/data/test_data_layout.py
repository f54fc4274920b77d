"""How people keep data: splits, classes, annotations beside pictures, links, and what is left out."""

import json
import logging
import struct
import zipfile

import lmdb
import numpy as np
import pytest
import torch
from data_archives import encode, noise, write, zip_folder

from bdiff.common.errors import RequestError
from bdiff.data.check import problems
from bdiff.data.files import Folder, Zip
from bdiff.data.lmdbs import Lmdb

PICTURE = encode(noise(8, 8))


def tree(root, *names):
    """A folder with a picture at each of `names`."""
    for name in names:
        write(root / name, PICTURE)
    return root


def classes(source):
    """The class of each picture, by its name."""
    labels, names = source.labelled
    return {name: names[label] for name, label in zip(source.names, labels, strict=True)}


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (["train/a/1.png", "train/b/2.png"], ["val/b/3.png"]),
        (["Train/a/1.png", "Train/b/2.png"], ["Valid/b/3.png"]),
        (["training_set/a/1.png"], ["test_set/a/2.png"]),
        (["x/train2017/1.png", "x/train2017/2.png"], ["x/val2017/3.png"]),
        (["images/train/1.png"], ["images/validation/2.png"]),
        (["cat/train/1.png", "dog/train/3.png"], ["cat/test/2.png", "dog/test/4.png"]),
        (["train/a/1.png"], ["test/a/1.png"]),
        (["seg_train/seg_train/a/1.png"], ["seg_test/seg_test/a/1.png"]),
        (["DIV2K_train_HR/1.png"], ["DIV2K_valid_HR/2.png"]),
        (["cat_train/1.png", "dog_train/2.png"], ["cat_test/3.png", "dog_test/4.png"]),
        (["trainA/1.png", "trainB/2.png"], ["testA/3.png", "testB/4.png"]),
        (["trainImages/1.png"], ["valImages/2.png"]),
        (["TRAINING/a/1.png"], ["TESTING/a/2.png"]),
        (["trainval/a/1.png", "trainval/b/2.png"], ["test/a/3.png"]),
        (["train_val/a/1.png"], ["test/a/3.png"]),
        (["train/a/1.png"], ["tests/a/2.png"]),
        (["train_aug/a/1.png"], ["test/a/2.png"]),
        (["train/a/1.png", "train_aug/a/1.png"], ["test/a/2.png"]),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_what_is_held_out_is_not_trained_on(train, test, zipped, tmp_path):
    root = tree(tmp_path / "s", *train, *test)
    path, kind = (zip_folder(root, tmp_path / "s.zip"), Zip) if zipped else (root, Folder)
    assert kind(path, "train").names == sorted(train)
    assert kind(path, "train").open(0).size == (8, 8)
    assert kind(path, "test").names == sorted(test)
    assert kind(path, "all").names == sorted(train + test)


@pytest.mark.parametrize(
    "names",
    [
        ["train/1.png", "plane/2.png"],  # a train, and not training
        ["plane/0.png", "test tube/1.png", "train station/2.png"],
        ["contest/1.png", "restrain/2.png"],
    ],
)
def test_words_for_splits_that_are_none(names, tmp_path):
    assert Folder(tree(tmp_path, *names), "train").names == sorted(names)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/train/1.png", "a/test/2.png", "b/3.png"], "'train' and 'test'"),
        (["train_extra/a/1.png", "test/a/2.png"], "'train_extra' and 'test'"),
        (["train_HR/1.png", "test_LR/2.png"], "'train_HR' and 'test_LR'"),
        (["Cat_train/1.png", "cat_test/2.png"], "'Cat_train' and 'cat_test'"),
        (["train/1.png", "images/test/2.png"], "'train' and 'test'"),
    ],
)
def test_what_may_be_a_split_or_a_class_is_refused(names, message, tmp_path):
    (line,) = problems(str(tree(tmp_path, *names)))
    assert f"{message} are called as splits" in line and "rename the two" in line


def test_domains_are_the_classes_of_each_split(tmp_path):
    root = tree(tmp_path, "trainA/1.png", "trainB/2.png", "testA/3.png", "testB/4.png")
    assert classes(Folder(root, "train")) == {"trainA/1.png": "A", "trainB/2.png": "B"}
    assert classes(Folder(root, "test")) == {"testA/3.png": "A", "testB/4.png": "B"}


def test_classes_lie_above_splits_too(tmp_path):
    root = tree(tmp_path, "cat/train/1.png", "cat/test/2.png", "dog/train/3.png", "dog/test/4.png")
    assert classes(Folder(root, "train")) == {"cat/train/1.png": "cat", "dog/train/3.png": "dog"}
    root = tree(tmp_path / "one", "cat_train/1.png", "cat_test/2.png", "dog_train/3.png", "dog_test/4.png")
    assert classes(Folder(root, "test")) == {"cat_test/2.png": "cat", "dog_test/4.png": "dog"}


def test_a_split_that_lacks_a_class_numbers_them_as_training_does(tmp_path):
    root = tree(tmp_path, "train/a/1.png", "train/b/2.png", "val/b/3.png")
    labels, names = Folder(root, "test").labelled
    assert labels.tolist() == [1] and names == ("a", "b")


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        (("cat", "dog"), ("ape", "cat", "dog"), ("cat", "dog", "ape")),
        (("Cat", "Dog"), ("cat", "Dog"), ("Cat", "Dog", "cat")),
        (("a", ""), ("a",), ("a", "unlabelled")),
    ],
)
def test_classes_that_training_lacks_are_numbered_last(train, test, expected, tmp_path):
    tree(tmp_path, *(f"train/{name}/1.png" for name in train), *(f"test/{name}/1.png" for name in test))
    assert Folder(tmp_path, "train").labelled[1] == expected[: len(train)]
    labels, names = Folder(tmp_path, "test").labelled
    assert names == expected and {names[label] for label in labels} == set(test)


def test_zips_made_elsewhere_keep_their_classes(tmp_path):
    names = ["./set/train\\a\\1.png", "set//train/b/2.png", "./set/val/b/3.png"]
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        for name in names:
            member = zipfile.ZipInfo(name)
            member.create_system = 0  # Windows
            archive.writestr(member, PICTURE)
    names[0] = names[0].replace("\\", "/")
    assert classes(Zip(tmp_path / "s.zip", "train")) == {names[0]: "a", names[1]: "b"}


def tiny_imagenet(root):
    """Tiny-ImageNet as it is published: classes above images/, val flat with its annotations, test without."""
    tree(root, "train/n02/images/n02_0.JPEG", "train/n01/images/n01_0.JPEG", "train/n03/images/n03_0.JPEG")
    tree(root, "val/images/val_0.JPEG", "val/images/val_1.JPEG", "test/images/test_0.JPEG")
    for name in ("n01", "n02", "n03"):
        write(root / "train" / name / f"{name}_boxes.txt", f"{name}_0.JPEG\t0\t0\t9\t9\n".encode())
    write(root / "val" / "val_annotations.txt", b"val_0.JPEG\tn03\t0\t0\t9\t9\nval_1.JPEG\tn02\t0\t0\t9\t9\n")
    return root


@pytest.mark.parametrize("zipped", [False, True])
def test_tiny_imagenet(zipped, tmp_path):
    root = tiny_imagenet(tmp_path / "t" / "tiny-imagenet-200")
    path, kind = (zip_folder(root.parent, tmp_path / "t.zip"), Zip) if zipped else (root, Folder)
    train, test = kind(path, "train"), kind(path, "test")
    assert train.labelled[1] == test.labelled[1] == ("n01", "n02", "n03")
    assert train.labelled[0].tolist() == [0, 1, 2]
    assert [name.rpartition("/")[2] for name in test.names] == ["val_0.JPEG", "val_1.JPEG"]
    assert test.labelled[0].tolist() == [2, 1]
    assert train.left_out == "3 .txt"


def test_other_annotations_of_tiny_imagenet_are_other_data(tmp_path):
    root = tiny_imagenet(tmp_path)
    before = Folder(root, "test").identity
    write(root / "val" / "val_annotations.txt", b"val_0.JPEG\tn01\nval_1.JPEG\tn01\n")
    assert Folder(root, "test").identity != before
    write(root / "val" / "val_annotations.txt", b"val_0.JPEG n01\n")
    (line,) = problems(str(root))
    assert "val_annotations.txt does not have" in line


def test_each_split_may_have_an_index_of_its_own(tmp_path):
    root = tree(tmp_path / "s", "train/1.png", "train/2.png", "val/3.png", "__MACOSX/4.png")
    write(root / "train" / "dataset.json", json.dumps({"labels": [["1.png", 2], ["2.png", 0]]}).encode())
    write(root / "val" / "dataset.json", json.dumps({"labels": [["3.png", 1]]}).encode())
    write(root / "__MACOSX" / "dataset.json", b"no index")
    for source in (Folder(root, "train"), Zip(zip_folder(root, tmp_path / "s.zip"), "train")):
        assert source.labelled[0].tolist() == [2, 0] and source.labelled[1] == ("0", "1", "2")
    assert Folder(root, "test").labelled[0].tolist() == [1]


@pytest.mark.parametrize("content", [b"[]", b"null", b'{"labels": 3}', b'{"labels": [3]}', b'{"labels": []}'])
def test_a_dataset_json_that_is_none_is_reported(content, tmp_path):
    write(tree(tmp_path, "a/1.png") / "dataset.json", content)
    with pytest.raises(RequestError, match=r"dataset\.json does not give"):
        _ = Folder(tmp_path, "all").labelled


CELEBA = ["CelebA-HQ-img/0.jpg", "CelebA-HQ-img/1.jpg", "CelebAMask-HQ-mask-anno/0/00000_skin.png"]


@pytest.mark.parametrize("name", ["celebahq", "images"])
@pytest.mark.parametrize("above", ["", "CelebAMask-HQ/"])
@pytest.mark.parametrize("zipped", [False, True])
def test_masks_of_faces_are_no_faces(name, above, zipped, get, tmp_path):
    root = tree(tmp_path / "c", *(above + one for one in CELEBA))
    path = zip_folder(root, tmp_path / "c.zip") if zipped else root
    images = get(name, path=path, size=8)
    assert len(images) == 2 and len(images.classes) == 1


def test_masks_are_counted(tmp_path):
    write(tree(tmp_path, *CELEBA) / "CelebA-HQ-to-CelebA-mapping.txt", b"")
    assert set(Folder(tmp_path, "all").left_out.split(", ")) == {"1 in CelebAMask-HQ-mask-anno", "1 .txt"}


@pytest.mark.parametrize("drawn", ["masks", "ground_truth/broken", "SegmentationClass", "annotations/trimaps"])
def test_annotations_beside_pictures_are_refused(drawn, tmp_path):
    root = tree(tmp_path, "images/1.png", f"{drawn}/1.png")
    (line,) = problems(str(root))
    assert f"in {drawn.partition('/')[0]}: give the pictures' own folder as data.path" in line
    assert problems(str(root / drawn)) == problems(str(root / "images")) == []


@pytest.mark.parametrize(
    ("names", "drawn"),
    [
        (["train/images/1.png", "train/gt/1.png"], "gt"),
        (["rgb/1.png", "depth/1.png"], "depth"),
        (["Images/1.png", "thumbs/1.png"], "thumbs"),
        (["a/1.png", "a/thumbs/1.png", "b/2.png"], "thumbs"),
        (["a/1.png", "b/1.png", "thumbnails/1.png"], "thumbnails"),
        (["train/1.png", "train_masks/1.png"], "train_masks"),
        (["train_images/1.png", "train_gt/1.png"], "train_gt"),
        (["train/1.png", "train_gt/1.png", "test/2.png", "test_gt/2.png"], "test_gt"),
    ],
)
def test_what_is_drawn_or_made_from_pictures_is_refused_beside_them(names, drawn, tmp_path):
    (line,) = problems(str(tree(tmp_path, *names)))
    assert f"in {drawn}: give the pictures' own folder" in line


@pytest.mark.parametrize("names", [("depth", "width"), ("gt", "suv"), ("fists", "thumbs"), ("photo", "sketch")])
def test_words_for_what_is_drawn_may_be_classes(names, tmp_path):
    assert Folder(tree(tmp_path, *(f"{name}/1.png" for name in names)), "all").labelled[1] == names


def test_people_with_and_without_a_mask_are_classes(tmp_path):
    assert Folder(tree(tmp_path, "mask/1.png", "no_mask/2.png"), "all").labelled[1] == ("mask", "no_mask")


@pytest.mark.parametrize("zipped", [False, True])
def test_what_is_left_out_is_counted_and_reported(zipped, get, tmp_path, caplog):
    root = tree(tmp_path / "s", "a/1.png", "a/2.jfif")
    for name in ("a/3.tif", "a/4.TIF", "a/5.gif", "readme", ".hidden/6.tif", "a/._1.png"):
        write(root / name, b"")
    path = zip_folder(root, tmp_path / "s.zip") if zipped else root
    with caplog.at_level(logging.INFO):
        assert len(get("images", path=path)) == 2
    (message,) = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()]
    assert set(message.rpartition(": ")[2].split(", ")) == {"2 .tif", "1 .gif", "1 without a suffix"}


def test_pictures_in_no_split_are_counted(tmp_path):
    root = tree(tmp_path, "train/1.png", "val/2.png", "extra/3.png", "extra/4.png")
    assert [Folder(root, split).left_out for split in ("train", "all")] == ["2 pictures in no split", ""]


def test_formats_that_are_not_read_are_named_where_there_are_no_others(tmp_path):
    write(tmp_path / "a" / "1.tif", b"")
    (line,) = problems(str(tmp_path))
    assert "holds no pictures (but 1 .tif)" in line


def test_a_zip_of_an_lmdb_is_to_be_unpacked(lsun, tmp_path):
    """LSUN is published so: bedroom_val_lmdb.zip holds bedroom_val_lmdb/data.mdb and lock.mdb."""
    with zipfile.ZipFile(tmp_path / "bedroom_val_lmdb.zip", "w") as archive:
        for file in ("data.mdb", "lock.mdb"):
            archive.write(lsun / "bedroom_val_lmdb" / file, f"bedroom_val_lmdb/{file}")
    (line,) = problems(str(tmp_path / "bedroom_val_lmdb.zip"))
    assert "unpack it, and set data.path to the folder of data.mdb" in line


def test_links_between_folders_end_and_bear_the_folders_own_names(tmp_path):
    root = tree(tmp_path / "root", "x/1.png", "y/2.png", "z/3.png")
    (root / "a").symlink_to(root / "z")  # comes first, and is none of the classes
    (root / "x" / "y").symlink_to(root / "y")
    (root / "y" / "x").symlink_to(root / "x")
    assert Folder(root, "all").names == ["x/1.png", "y/2.png", "z/3.png"]


def test_a_folder_above_one_that_was_linked_is_read_but_for_that_one(tmp_path):
    tree(tmp_path, "elsewhere/deep/1.png", "elsewhere/2.png")
    root = tree(tmp_path / "root", "0.png")
    (root / "a").symlink_to(tmp_path / "elsewhere" / "deep")
    (root / "b").symlink_to(tmp_path / "elsewhere")
    assert Folder(root, "all").names == ["0.png", "a/1.png", "b/2.png"]


def test_a_data_set_of_links_is_read_by_their_names(tmp_path):
    tree(tmp_path, "store/n01/1.png", "store/n02/2.png")
    (tmp_path / "set").mkdir()
    for name, of in (("cat", "n01"), ("dog", "n02")):
        (tmp_path / "set" / name).symlink_to(tmp_path / "store" / of)
    (tmp_path / "link").symlink_to(tmp_path / "set")
    assert classes(Folder(tmp_path / "link", "all")) == {"cat/1.png": "cat", "dog/2.png": "dog"}


def database(path, **values):
    """An LMDB of the keys and values."""
    with lmdb.open(str(path), map_size=2**24) as environment, environment.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key.encode("latin-1"), value)
    return path


def test_facts_and_labels_in_an_lmdb_are_left_out_and_counted(tmp_path):
    values = {f"image-{number}": PICTURE for number in range(3)} | {f"label-{number}": b"text" for number in range(3)}
    facts = {"num-samples": b"3", "length": b"\x80\x04K\x03.", "__keys__": bytes(5000), "meta": b"{}"}
    source = Lmdb(database(tmp_path / "l", **values, **facts), tmp_path / "cache")
    assert source.names.tolist() == [b"image-0", b"image-1", b"image-2"]
    assert source.left_out == "7 entries"


def test_keys_that_end_in_zero_bytes_give_their_own_pictures(get, tmp_path):
    pixels = noise(300, 8, 8, 3)
    keys = [struct.pack("<I", number).decode("latin-1") for number in range(300)]
    path = database(tmp_path / "l", **{key: encode(one) for key, one in zip(keys, pixels, strict=True)})
    images = get("images", path=path, size=8)
    order = sorted(range(300), key=lambda number: struct.pack("<I", number))
    assert np.array_equal(images.take(torch.arange(300)), pixels[order].transpose(0, 3, 1, 2))


def test_a_damaged_page_of_an_lmdb_is_reported(tmp_path):
    """The tree's pages, flipped one by one; pages of pictures are for the decoder to complain of."""
    path = database(tmp_path / "l", **{f"{number:03}": PICTURE for number in range(200)})
    whole, message = (path / "data.mdb").read_bytes(), 0
    for page in range(2, len(whole) // 4096):
        place = tmp_path / f"l{page}"
        write(place / "data.mdb", whole[: page * 4096 + 10] + b"\xff\xff" + whole[page * 4096 + 12 :])
        try:
            assert len(Lmdb(place, tmp_path / "cache").names) == 200
        except RequestError as error:
            assert "is not an intact LMDB" in str(error)
            message += 1
    assert message


@pytest.mark.parametrize("value", [b"raw pixels", bytes(5000)])
def test_an_lmdb_of_other_things_is_refused_at_once(value, tmp_path):
    (line,) = problems(str(database(tmp_path / "l", a=value, b=value)))
    assert "its values are not JPEG, PNG, WebP or BMP files" in line
