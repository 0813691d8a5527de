from collections import Counter
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from resnet18.data.feeds.augment import Augmentation, cutout, gather_augmented, random_resized_crop


def pictures(count: int, height: int, width: int, channels: int) -> Tensor:
    numbers = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, height, width, channels), dtype=torch.uint8, generator=numbers)


def by_hand(image: Tensor, down: int, right: int, mirrored: bool, translate: int) -> numpy.ndarray:
    """One image, padded by reflection, cropped away from the middle and mirrored."""
    height, width, _ = image.shape
    padded = numpy.pad(image.numpy(), ((translate, translate), (translate, translate), (0, 0)), mode="reflect")
    top, left = translate + down, translate + right
    crop = padded[top : top + height, left : left + width]
    return numpy.flip(crop, axis=1) if mirrored else crop


def drawn(translate: int, flip: bool, size: tuple[int, int, int], count: int) -> Counter[tuple[int, int, bool]]:
    """How often each shift and mirroring comes up; every output must be one of those made by hand."""
    images = pictures(4, *size)
    index = torch.arange(count) % len(images)
    outputs = gather_augmented(
        images, index, translate=translate, flip=flip, generator=torch.Generator().manual_seed(0)
    ).numpy()
    assert outputs.shape == (count, *size)
    shifts = range(-translate, translate + 1)
    candidates = [
        {
            by_hand(image, down, right, mirrored, translate).tobytes(): (down, right, mirrored)
            for down in shifts
            for right in shifts
            for mirrored in ([False, True] if flip else [False])
        }
        for image in images
    ]
    return Counter(candidates[number][output.tobytes()] for number, output in zip(index, outputs, strict=True))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("translate", "flip", "kinds"), [(0, True, 2), (1, False, 9), (1, True, 18), (2, True, 50), (3, False, 49)]
)
def test_every_image_is_one_made_by_hand_and_all_of_those_are_equally_likely(
    translate: int, flip: bool, kinds: int, channels: int
) -> None:
    counts = drawn(translate, flip, (5, 7, channels), 100 * kinds)
    assert len(counts) == kinds
    assert all(60 < count < 140 for count in counts.values())


def test_the_largest_shift_is_a_pixel_less_than_the_image() -> None:
    # At a height of 5, 4 pixels up and 4 pixels down give the same image: 8 of the 9 shifts differ.
    assert len(drawn(4, False, (5, 7, 1), 2000)) == 8 * 9


@pytest.mark.parametrize("translate", [1, 3])
def test_no_shift_goes_beyond_the_bound_in_either_direction(translate: int) -> None:
    counts = drawn(translate, False, (6, 6, 1), 1000)
    for axis in (0, 1):
        assert {shift[axis] for shift in counts} == set(range(-translate, translate + 1))


def test_without_augmentation_the_images_are_taken_as_they_are() -> None:
    images, index = pictures(5, 4, 6, 3), torch.tensor([4, 0, 0, 2])
    assert torch.equal(gather_augmented(images, index, translate=0, flip=False, generator=None), images[index])


@pytest.mark.parametrize("translate", [0, 2])
def test_images_stay_contiguous_bytes_and_the_source_is_left_alone(translate: int) -> None:
    images = pictures(5, 4, 6, 3)
    before = images.clone()
    output = gather_augmented(images, torch.arange(5), translate=translate, flip=False, generator=torch.Generator())
    assert output.dtype == torch.uint8
    assert output.is_contiguous()
    output.fill_(0)
    assert torch.equal(images, before)


def test_each_image_of_a_batch_has_its_own_draws_from_the_generator() -> None:
    images, index = pictures(1, 8, 8, 1), torch.zeros(64, dtype=torch.long)
    first, again, other = (
        gather_augmented(images, index, translate=2, flip=True, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(first.unique(dim=0)) > 25


@pytest.mark.parametrize(("channels", "side"), [(1, 2), (3, 3), (3, 4), (3, 1)])
def test_cutout_paints_one_square_wherever_it_may_lie(channels: int, side: int) -> None:
    before = pictures(600, 6, 8, channels).clamp(max=250)
    colour = torch.arange(251, 251 + channels).to(torch.uint8)
    after = cutout(before.clone(), side, colour, torch.Generator().manual_seed(0))
    painted = (after == colour).all(3)
    assert torch.equal(after[~painted], before[~painted])
    corners = Counter()
    for mask in painted:
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        height, width = len(rows), len(columns)
        assert mask.sum() == height * width  # a rectangle: the square, cut off at the border
        inside = rows[0] > 0 and rows[-1] < 5 and columns[0] > 0 and columns[-1] < 7
        assert (height, width) == (side, side) if inside else (0 < height <= side and 0 < width <= side)
        corners[int(rows[-1]), int(columns[-1]), height, width] += 1
    assert len(corners) == 6 * 8  # a centre at each of the pixels
    assert max(corners.values()) < 40


def test_without_cutout_nothing_is_painted() -> None:
    images, draws = pictures(5, 6, 8, 3), torch.Generator().manual_seed(0)
    colour = torch.zeros(3, dtype=torch.uint8)
    assert torch.equal(Augmentation().gather(images, torch.tensor([3, 1]), colour, draws), images[[3, 1]])


def ramps(count: int, size: int) -> Tensor:
    """Images whose first channel rises from left to right and whose second from top to bottom, by 2 a pixel."""
    position = 2 * torch.arange(size)
    x, y = position.expand(size, size), position[:, None].expand(size, size)
    return torch.stack([x, y, torch.zeros(size, size)], dim=2).to(torch.uint8).expand(count, size, size, 3)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("area", [(0.2, 0.5), (0.35, 1.0), (1.0, 1.0)])
def test_a_random_crop_is_a_part_of_the_image_scaled_to_the_whole(area: tuple[float, float], flip: bool) -> None:
    size = 96
    crops = random_resized_crop(ramps(400, size), area, flip, torch.Generator().manual_seed(1)).double()
    assert crops.shape == (400, size, size, 3)
    # Bilinear interpolation leaves a ramp a ramp: its slope is the side of the part, as a share of the image's.
    middle = slice(size // 4, 3 * size // 4)
    x, y = crops[:, :, middle, 0].mean(1), crops[:, middle, :, 1].mean(2)
    widths, heights = ((line[:, -1] - line[:, 0]) / (2 * (line.shape[1] - 1)) for line in (x, y))
    if flip:
        assert 150 < (widths < 0).sum() < 250
    else:
        assert (widths > 0).all()
    widths = widths.abs()
    ratio, share = widths / heights, widths * heights
    assert (heights > 0).all()
    assert widths.max() < 1.02
    assert heights.max() < 1.02
    whole = (widths > 0.98) | (heights > 0.98)  # a side that was cut to the image's
    assert (share[~whole] > area[0] - 0.02).all()
    assert (share < area[1] + 0.02).all()
    assert ratio[~whole].min() > 0.73 if (~whole).any() else True
    assert ratio[~whole].max() < 1.36 if (~whole).any() else True
    if area[0] < area[1]:
        assert share.std() > 0.05
        left = crops[:, :, :, 0].amin((1, 2)) / 2  # where the part begins, in pixels
        free = (1 - widths) * size
        assert (left <= free + 2).all()
        assert 0.4 < (left[free > 10] / free[free > 10]).mean() < 0.6


def test_the_same_draws_give_the_same_crops() -> None:
    images = pictures(8, 12, 12, 3)
    one, again = (random_resized_crop(images, (0.3, 1), True, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one, again)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop": (0.0, 1.0)}, "crop must be two shares"),
        ({"crop": (0.5, 0.2)}, "crop must be two shares"),
        ({"crop": (0.5, 1.0), "translate": 1}, "exclude each other"),
    ],
)
def test_an_invalid_crop_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augmentation(**settings)
