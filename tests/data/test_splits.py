import pytest
import torch

from resnet18.data.splits import fingerprint, stratified_split

LABELS = torch.tensor([0] * 40 + [7] * 25 + [2] * 3 + [5] * 2 + [3] * 130)[
    torch.randperm(200, generator=torch.Generator().manual_seed(0))
]


@pytest.mark.parametrize(
    ("share", "counts"),
    [
        (0.1, {0: 4, 7: 2, 2: 1, 5: 1, 3: 13}),
        (0.3, {0: 12, 7: 8, 2: 1, 5: 1, 3: 39}),
        (0.99, {0: 39, 7: 24, 2: 2, 5: 1, 3: 129}),
        (0.001, {0: 1, 7: 1, 2: 1, 5: 1, 3: 1}),
    ],
)
def test_every_class_gives_its_share_rounded_and_keeps_and_gives_at_least_one(
    share: float, counts: dict[int, int]
) -> None:
    rest, chosen = stratified_split(LABELS, share, seed=0)
    assert {label: int((LABELS[chosen] == label).sum()) for label in counts} == counts
    assert all((LABELS[rest] == label).any() for label in counts)


def test_the_parts_are_ascending_disjoint_and_complete() -> None:
    rest, chosen = stratified_split(LABELS, 0.2, seed=0)
    assert rest.tolist() == sorted(rest.tolist())
    assert chosen.tolist() == sorted(chosen.tolist())
    assert rest.dtype == chosen.dtype == torch.int64
    assert sorted(rest.tolist() + chosen.tolist()) == list(range(len(LABELS)))


def test_the_seed_alone_decides_which() -> None:
    first = stratified_split(LABELS, 0.2, seed=4)
    torch.manual_seed(99)
    again = stratified_split(LABELS.clone(), 0.2, seed=4)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    others = {tuple(stratified_split(LABELS, 0.2, seed=seed)[1].tolist()) for seed in range(10)}
    assert len(others) == 10


def test_over_many_seeds_every_image_is_chosen_as_often_as_its_class_allows() -> None:
    labels = torch.arange(2).repeat(10)
    times = torch.zeros(20)
    for seed in range(500):
        times[stratified_split(labels, 0.2, seed)[1]] += 1
    assert times.min() > 60
    assert times.max() < 140


def test_an_image_alone_in_its_stratum_stays_in_the_rest() -> None:
    rest, chosen = stratified_split(torch.tensor([1, 1, 3, 2, 2]), 0.5, seed=0)
    assert 2 in rest
    assert len(chosen) == 2


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.1, float("nan")])
def test_a_share_that_leaves_nothing_on_one_side_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=f"must lie between 0 and 1, not {share}"):
        stratified_split(LABELS, share, seed=0)


def test_the_fingerprint_depends_on_the_content() -> None:
    whole = torch.arange(24).view(4, 6)
    assert fingerprint(a=whole, b=whole[:, ::2]) == fingerprint(a=whole.clone(), b=whole[:, ::2].contiguous())
    assert len(fingerprint(a=whole)) == 16
    int(fingerprint(a=whole), 16)


def test_the_fingerprint_stays_the_same_from_version_to_version() -> None:
    # Stored with every run: another one would keep old checkpoints from being scored.
    assert fingerprint(labels=torch.tensor([0, 1]), val=torch.tensor([1])) == "b6b1fd770df4ae77"


def test_the_fingerprint_changes_with_anything() -> None:
    a, b = torch.tensor([1, 2, 3, 4]), torch.tensor([5, 6])
    other = [
        fingerprint(a=a, b=b),
        fingerprint(a=b, b=a),
        fingerprint(b=b, a=a),
        fingerprint(a=a, c=b),
        fingerprint(a=a),
        fingerprint(a=a, b=b, c=torch.tensor([])),
        fingerprint(a=torch.tensor([1, 2, 3, 5]), b=b),
        fingerprint(a=torch.tensor([2, 1, 3, 4]), b=b),
        fingerprint(a=torch.tensor([1, 2, 3, 4, 5]), b=torch.tensor([6])),
        fingerprint(a=a.view(2, 2), b=b),
        fingerprint(a=a.int(), b=b),
        fingerprint(),
    ]
    assert len(set(other)) == len(other)
