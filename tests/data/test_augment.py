from collections import Counter

import numpy
import pytest
import torch
from torch import Tensor

from resnet18.data.augment import gather_augmented


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


def test_each_image_of_a_batch_gets_draws_of_its_own_from_the_generator_alone() -> None:
    images, index = pictures(1, 8, 8, 1), torch.zeros(64, dtype=torch.long)
    first, again, other = (
        gather_augmented(images, index, translate=2, flip=True, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(first.unique(dim=0)) > 25
