import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from scipy.ndimage import gaussian_filter
from scipy.stats import ks_2samp
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from stages.dataset import augment
from stages.sections import Augmentation

NOTHING = {
    "crop_scale_min": 1,
    "translate": 0,
    "rotate_degrees": 0,
    "flip": 0,
    "jitter": 0,
    "brightness": 0,
    "contrast": 0,
    "saturation": 0,
    "hue": 0,
    "grayscale": 0,
    "blur": 0,
    "blur_sigma_max": 2,
}
EVERYTHING = {
    "crop_scale_min": 0.3,
    "translate": 0.1,
    "rotate_degrees": 15,
    "flip": 0.5,
    "jitter": 0.8,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
    "grayscale": 0.2,
    "blur": 0.5,
    "blur_sigma_max": 2,
}


def settings(**changes):
    return Augmentation(**{**NOTHING, **changes})


@pytest.fixture(scope="module")
def images():
    """Smooth colour images with hard edges, black, white and gray among them."""
    coarse = torch.rand(12, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bicubic").clamp(0, 1)
    smooth[:, :, 10:14] = 1
    smooth[9], smooth[10], smooth[11] = 0, 1, 0.5
    return (smooth * 255).round().byte()


@pytest.fixture(scope="module")
def pixels(images):
    return images.float() / 255


def draws(count=12, **fixed):
    """What `draw` gives, with some of its columns replaced."""
    u = augment.draw(7, 3, torch.arange(count), torch.device("cpu"))
    return {**u, **{key: torch.full((count,), float(value)) for key, value in fixed.items()}}


def test_without_settings_it_normalises(images):
    out = augment.augment(images, settings(), 0, 0, torch.arange(12))
    assert torch.allclose(out, augment.normalize(images), atol=1e-6)
    assert out.dtype == torch.float32
    assert augment.normalize(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1, 1]


def test_range_and_input_untouched(images):
    before = images.clone()
    out = augment.augment(images, settings(**EVERYTHING), 0, 5, torch.arange(12))
    assert torch.equal(images, before)
    assert out.shape == images.shape
    assert out.min() >= -1 - 1e-5
    assert out.max() <= 1 + 1e-5


@pytest.mark.parametrize("parts", [(12,), (6, 6), (1, 4, 7)])
def test_any_split_of_the_batch_gives_the_same_pixels(images, parts):
    whole = augment.augment(images, settings(**EVERYTHING), 0, 5, torch.arange(12))
    positions = torch.arange(12).split(parts)
    cut = [augment.augment(images[i], settings(**EVERYTHING), 0, 5, i) for i in positions]
    assert torch.equal(torch.cat(cut), whole)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    shuffled = augment.augment(images[order], settings(**EVERYTHING), 0, 5, order)
    assert torch.equal(shuffled, whole[order])


def test_seed_step_and_position_all_matter():
    u = draws()["crop_x"]
    assert len(set(u.tolist())) == 12
    for seed, step in ((8, 3), (7, 4), (3, 7)):
        other = augment.draw(seed, step, torch.arange(12), torch.device("cpu"))["crop_x"]
        assert not torch.equal(u, other)
    assert {augment.jitter_order(0, step) for step in range(400)} == set(augment.JITTER_ORDERS)


def test_draws_are_uniform_and_independent():
    u = torch.stack(list(augment.draw(0, 0, torch.arange(20_000), torch.device("cpu")).values()))
    assert u.min() >= 0
    assert u.max() < 1
    assert (u.mean(1) - 0.5).abs().max() < 0.01
    assert (torch.corrcoef(u) - torch.eye(len(u))).abs().max() < 0.03


def test_switching_one_transform_on_leaves_the_others_alone(images):
    plain = augment.augment(images, settings(flip=0.5), 0, 5, torch.arange(12))
    flipped = [not torch.allclose(a, b, atol=1e-5) for a, b in zip(plain, augment.normalize(images), strict=True)]
    assert 0 < sum(flipped[:9]) < 9
    both = augment.augment(images, settings(flip=0.5, jitter=1, brightness=0.4), 0, 5, torch.arange(12))
    factor = (1 + 0.4 * (2 * augment.draw(0, 5, torch.arange(12), torch.device("cpu"))["brightness"] - 1)).view(
        -1, 1, 1, 1
    )
    assert torch.allclose((both + 1) / 2, ((plain + 1) / 2 * factor).clamp(0, 1), atol=1e-5)


# ------------------------------------------------------------------------------------------ against torchvision


def test_flip_is_exact(images):
    out = augment.augment(images, settings(flip=1), 0, 0, torch.arange(12))
    assert torch.allclose(out, augment.normalize(images.flip(-1)), atol=2e-5)


def test_affine_is_torchvisions(pixels):
    chosen = settings(translate=0.2, rotate_degrees=40)
    u = draws()
    out = augment.resample(pixels, augment.affine(u, chosen, 32), True)
    for i, image in enumerate(pixels):
        angle, x, y = (float(2 * u[key][i] - 1) for key in ("rotate", "translate_x", "translate_y"))
        wanted = reference.affine(
            image,
            angle=40 * angle,
            translate=[round(6.4 * x), round(6.4 * y)],
            scale=1.0,
            shear=[0.0, 0.0],
            interpolation=v2.InterpolationMode.BILINEAR,
        )
        assert torch.allclose(out[i], wanted, atol=1e-4)


def test_whole_pixel_shift_moves_pixels_exactly(images):
    u = draws(translate_x=0.999999, translate_y=0)
    out = augment.resample(images.float(), augment.affine(u, settings(translate=0.1), 32), True)
    assert torch.allclose(out[:, :, :-3, 3:], images[:, :, 3:, :-3].float(), atol=1e-2)
    assert out[:, :, :, :3].abs().max() < 1e-2


def boxes(u, scale_min, side):
    """Height, width, top and left in pixels of the crops, (B, 4)."""
    width, height, x, y = augment.crop(u, scale_min, side)
    return torch.stack([height, width, (y + 1 - height) / 2, (x + 1 - width) / 2], 1) * side


def test_crop_is_torchvisions(pixels):
    u = draws()
    out = augment.resample(pixels, augment.affine(u, settings(crop_scale_min=0.08), 32), False)
    for image, cropped, box in zip(pixels, out, boxes(u, 0.08, 32), strict=True):
        height, width, top, left = (int(value) for value in box)
        wanted = reference.resized_crop(image, top, left, height, width, [32, 32], antialias=True)
        assert torch.allclose(cropped, wanted, atol=1e-4)


@pytest.mark.parametrize(("scale_min", "side"), [(0.08, 32), (0.5, 32), (0.08, 224)])
def test_crops_are_distributed_as_torchvisions(scale_min, side):
    torch.manual_seed(0)
    image = torch.empty(3, side, side)
    drawn = [v2.RandomResizedCrop(side, scale=(scale_min, 1)).make_params([image]) for _ in range(20_000)]
    wanted = torch.tensor([[one[key] for key in ("height", "width", "top", "left")] for one in drawn])
    exact = boxes(draws(20_000), scale_min, side)
    ours = exact.round()
    assert torch.allclose(ours, exact, atol=1e-3)
    assert ours.min() >= 0
    assert (ours[:, :2] + ours[:, 2:]).max() <= side
    for statistic in (lambda b: b, lambda b: b[:, :1] * b[:, 1:2], lambda b: b[:, :1] / b[:, 1:2]):
        for a, b in zip(statistic(ours.double()).T, statistic(wanted.double()).T, strict=True):
            assert ks_2samp(a, b).statistic < 0.0195  # the 0.1 % point at this size


def test_without_a_crop_the_image_stays_whole():
    assert torch.equal(boxes(draws(500), 1, 32), torch.tensor([[32.0, 32, 0, 0]]).expand(500, 4))


def test_crop_rotation_shift_and_flip_compose_in_that_order():
    """One resampling lands where four steps would: followed on the centre of a bright spot."""
    chosen = settings(crop_scale_min=0.25, rotate_degrees=90, translate=0.25, flip=1)
    u = draws(1, crop_area=1, crop_ratio=0.5, crop_x=0, crop_y=0, rotate=1, translate_x=1, translate_y=0.5, flip=0)
    spot = torch.zeros(1, 1, 32, 32)
    spot[:, :, 2:4, 4:6] = 1
    # cropped to the upper left quarter: rows 4-7, columns 8-11; a quarter turn clockwise: rows 8-11, columns 24-27;
    # 8 pixels right: out of the image; so look at 4 pixels (translate 0.125), then mirrored: columns 0-3.
    moved = augment.resample(spot, augment.affine(u, chosen.model_copy(update={"translate": 0.125}), 32), True)[0, 0]
    assert moved[8:12, 0:4].min() > 0.4
    assert moved[8:12, 0:4].sum() > 0.7 * moved.sum()
    assert (
        augment.resample(spot, augment.affine(u, chosen, 32), True).sum() < 0.1 * moved.sum()
    )  # the spot's blurred rim


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_colour_is_torchvisions(pixels, name):
    strength = 0.5 if name == "hue" else 1
    u = draws(jitter=0)
    chosen = settings(jitter=1, **{name: strength})
    out = augment.jitter(pixels.clone(), u, chosen, augment.JITTER_ORDERS[0])
    for i, image in enumerate(pixels):
        change = strength * float(2 * u[name][i] - 1)
        wanted = getattr(reference, f"adjust_{name}")(image, change if name == "hue" else 1 + change)
        assert torch.allclose(out[i], wanted, atol=2e-5), (name, i)


@pytest.mark.parametrize("order", augment.JITTER_ORDERS[::5])
def test_jitter_applies_its_parts_in_order(pixels, order):
    u = draws(jitter=0)
    strengths = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
    out = augment.jitter(pixels.clone(), u, settings(jitter=1, **strengths), order)
    wanted = pixels
    for name in order:
        change = strengths[name] * (2 * u[name] - 1)
        adjust = getattr(reference, f"adjust_{name}")
        wanted = torch.stack(
            [adjust(p, float(c if name == "hue" else 1 + c)) for p, c in zip(wanted, change, strict=True)]
        )
    assert torch.allclose(out, wanted, atol=1e-4)


def test_jitter_leaves_what_was_not_chosen(pixels):
    u = draws()
    chosen = u["jitter"] < 0.5
    strengths = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
    out = augment.jitter(pixels.clone(), u, settings(jitter=0.5, **strengths), augment.JITTER_ORDERS[0])
    same = torch.isclose(out, pixels, atol=1e-5).flatten(1).all(1)
    assert torch.equal(same[:9], ~chosen[:9])


def test_grayscale_is_torchvisions(images, pixels):
    out = augment.augment(images, settings(grayscale=1), 0, 0, torch.arange(12))
    assert torch.allclose((out + 1) / 2, reference.rgb_to_grayscale(pixels, 3), atol=1e-5)


@pytest.mark.parametrize("side", [8, 32, 64])
def test_blur_is_a_gaussian_with_edges_that_go_on(side):
    pixels = torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(0))
    sigmas = torch.tensor([0.1, 0.7, 2.0])
    out = augment.blur(pixels, sigmas, 2)
    for image, sigma, blurred in zip(pixels, sigmas, out, strict=True):
        wanted = gaussian_filter(image.double(), float(sigma), axes=(1, 2), mode="nearest", radius=6)
        assert np.allclose(blurred, wanted, atol=1e-5)


def test_blur_is_near_pils(images):
    """PIL's is three boxes, in bytes."""
    sigmas = torch.linspace(0.1, 2, 12)
    out = augment.blur(images.float(), sigmas, 2)
    for image, sigma, blurred in zip(images, sigmas, out, strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy()).filter(ImageFilter.GaussianBlur(float(sigma)))
        difference = np.asarray(picture).transpose(2, 0, 1) - blurred.numpy()
        assert np.sqrt((difference**2).mean()) < 2.5


def test_probabilities():
    """Over many images, each transform is applied about as often as its setting says."""
    noise = torch.randint(0, 256, (2000, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    plain = augment.normalize(noise)
    for name, share in itertools.product(("flip", "grayscale", "blur"), (0.2, 0.7)):
        out = augment.augment(noise, settings(**{name: share}), 1, 1, torch.arange(2000))
        changed = (~torch.isclose(out, plain, atol=1e-3)).flatten(1).any(1).float().mean()
        # a sigma near 0.1 changes nothing that can be seen
        slack = 0.1 * share if name == "blur" else 0
        assert share - slack - 4 * math.sqrt(share * (1 - share) / 2000) < changed
        assert changed < share + 4 * math.sqrt(share * (1 - share) / 2000)


def test_draws_do_not_depend_on_global_state():
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    first = draws()["hue"]
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    assert torch.equal(first, draws()["hue"])
