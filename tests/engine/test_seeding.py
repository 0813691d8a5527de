import itertools

import pytest
import torch

from resnet18.engine.seeding import generator, mix


@pytest.mark.parametrize(("seed", "first"), [(0, 0xE220A8397B1DCDAF), (1234567, 6457827717110365317)])
def test_one_key_gives_the_first_output_of_splitmix64(seed: int, first: int) -> None:
    # The published reference outputs, without their lowest bit.
    assert mix(seed) == first >> 1


def test_seeds_are_63_bits_wide_for_any_whole_numbers() -> None:
    for keys in [(), (0,), (-1,), (2**63,), (2**200, -(2**70)), (1, 2, 3, 4, 5)]:
        assert 0 <= mix(*keys) < 2**63


def test_near_keys_differ_in_the_32_bits_of_torchs_cpu_generator() -> None:
    keys = [*itertools.product(range(-50, 50), range(100)), *itertools.product(range(5), repeat=3), (0,), (1,)]
    assert len({mix(*key) & 0xFFFFFFFF for key in keys}) == len(keys)


def test_the_order_and_the_number_of_keys_count() -> None:
    assert len({mix(*keys) for keys in [(), (0,), (0, 0), (1, 2), (2, 1), (1, 2, 0), (0, 1, 2)]}) == 7


@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_changed_bit_changes_half_of_the_seed(place: int) -> None:
    changes = []
    for bit in range(64):
        keys = [11, 22, 33]
        keys[place] ^= 1 << bit
        changes.append((mix(*keys) ^ mix(11, 22, 33)).bit_count())
    assert all(12 < change < 52 for change in changes)
    assert 28 < sum(changes) / len(changes) < 36


def test_draws_depend_only_on_the_keys() -> None:
    first = torch.rand(5, generator=generator(1, 2))
    torch.rand(100)
    torch.manual_seed(123)
    assert torch.equal(torch.rand(5, generator=generator(1, 2)), first)
    assert not torch.equal(torch.rand(5, generator=generator(1, 3)), first)


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    torch.randperm(100, generator=generator(1))
    assert torch.equal(torch.get_rng_state(), before)
