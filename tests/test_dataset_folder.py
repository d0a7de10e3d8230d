import numpy as np
import pytest
from PIL import Image

from stages.artifacts import BadInput
from stages.dataset import codec, folder
from stages.sections import Codec

PNG = Codec(format="png", quality=None)


def picture(seed, size=(8, 8)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def root(tmp_path):
    for label, name in enumerate(("b cat", "a dog")):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i, suffix in enumerate(("png", "JPG", "jpeg", "webp")):
            picture(10 * label + i).save(tmp_path / "set" / name / f"{i}.{suffix}")
    return tmp_path / "set"


def pixels(example):
    return np.asarray(codec.decode(example.image))


def test_classes_are_sorted_folders_and_all_formats_are_read(root):
    (root / ".hidden").mkdir()
    (root / "a dog" / ".thumbnail.png").write_bytes(b"no image")
    (root / "a dog" / "notes.txt").write_text("fluffy")
    (root / "read me.png").write_text("belongs to no class")
    (root / "b cat" / "more").mkdir()
    picture(5).save(root / "b cat" / "more" / "deep.png")
    found = folder.read(root, 8, PNG)
    assert found.class_names == ("a dog", "b cat")
    assert [e.label for e in found.real] == [0] * 4 + [1] * 5
    assert found.num_ignored == 2
    assert np.array_equal(pixels(found.real[0]), np.asarray(picture(10)))
    assert np.array_equal(pixels(found.real[-1]), np.asarray(picture(5)))


def test_images_become_square_of_the_size(root):
    picture(0, (20, 40)).save(root / "a dog" / "wide.png")
    for example in folder.read(root, 16, PNG).real:
        assert pixels(example).shape == (16, 16, 3)


def test_exif_orientation_is_followed(root):
    upright = picture(3)
    for tag, turn in (
        (6, Image.Transpose.ROTATE_90),
        (3, Image.Transpose.ROTATE_180),
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
    ):
        exif = Image.Exif()
        exif[0x0112] = tag
        upright.transpose(turn).save(root / "x.png", exif=exif)
        assert np.array_equal(np.asarray(folder.load(root / "x.png")), np.asarray(upright)), tag


def test_modes_become_rgb_as_a_person_sees_them(root):
    def seen(image, **options):
        image.save(root / "x.png", **options)
        loaded = folder.load(root / "x.png")
        assert loaded.mode == "RGB"
        return loaded.getpixel((0, 0))

    assert seen(Image.new("L", (2, 2), 9)) == (9, 9, 9)
    assert seen(Image.new("1", (2, 2), 1)) == (255, 255, 255)
    assert seen(Image.new("RGBA", (2, 2), (255, 0, 0, 255))) == (255, 0, 0)
    assert seen(Image.new("RGBA", (2, 2), (255, 0, 0, 0))) == (255, 255, 255)
    assert seen(Image.new("LA", (2, 2), (0, 0))) == (255, 255, 255)
    assert seen(Image.new("P", (2, 2), 0), transparency=0) == (255, 255, 255)
    assert seen(Image.fromarray(np.full((2, 2), 128 * 256, np.uint16))) == (128, 128, 128)


def test_what_is_wrong_is_named(root, tmp_path):
    with pytest.raises(BadInput, match=r"dataset_path: .*/nowhere is not there; name a folder"):
        folder.read(tmp_path / "nowhere", 8, PNG)
    with pytest.raises(BadInput, match=r"dataset_path: .*0\.png is a file"):
        folder.read(root / "a dog" / "0.png", 8, PNG)
    with pytest.raises(BadInput, match=r"has no class folder"):
        folder.read(root / "a dog", 8, PNG)
    (tmp_path / "single" / "only").mkdir(parents=True)
    with pytest.raises(BadInput, match=r"has one class folder \(only\)"):
        folder.read(tmp_path / "single", 8, PNG)
    (root / "c empty").mkdir()
    with pytest.raises(BadInput, match=r"c empty: has no image \(jpeg, jpg, png, webp\)"):
        folder.read(root, 8, PNG)


@pytest.mark.parametrize("damage", ["text", "cut", "empty"])
@pytest.mark.parametrize("name", ["1.JPG", "0.png", "3.webp"])
def test_an_unreadable_image_is_named(root, name, damage):
    path = root / "b cat" / name
    whole = path.read_bytes()
    path.write_bytes({"text": b"this is no image", "cut": whole[: len(whole) // 2], "empty": b""}[damage])
    with pytest.raises(BadInput, match=rf"b cat/{name}: is no image that can be read \(.*\); mend or remove it"):
        folder.read(root, 8, PNG)
