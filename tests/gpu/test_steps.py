"""What makes up a training step, on the CPU and on a GPU."""

import copy
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import DROPOUT_NET, DROPOUT_RUN, picture_folder
from devices import GPU, everywhere, on_gpu, trainer_on
from torch import Tensor, nn
from torch.optim import SGD

from resnet18 import Classifier, ImageDataModule, ImageFolder, ImageTensors, ResNet
from resnet18.callbacks.ema import WeightAverage
from resnet18.data.feeds.augment import Augmentation
from resnet18.data.feeds.files import Files
from resnet18.data.feeds.order import Shard
from resnet18.data.feeds.resident import TrainLoader
from resnet18.data.feeds.streamed import StreamedTrainLoader
from resnet18.engine.ranks import AsyncMax

FORBID = """
import torch
from lightning.pytorch import Callback

class Forbid(Callback):
    # torch raises where the host waits for the device, in the batches from the second to the 52nd.
    count = 0

    def mode(self, name: str) -> None:
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode(name)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        Forbid.count += 2 <= batch_idx < 52
        self.mode("error" if 2 <= batch_idx < 52 else "default")

    def on_exception(self, *arguments) -> None:
        self.mode("default")
"""
FEEDS = {
    "resident": ("--data.translate", "1", "--data.flip", "true", "--data.cutout", "3"),
    "mixed": ("--model.mixup", "0.2", "--model.cutmix", "1", "--model.ema", "0.9"),
    "average": ("--model.ema", "0.9", "--trainer.precision", "bf16-mixed", "--trainer.gradient_clip_val", "1"),
    "fused": ("--model.optimizer", "AdamW", "--model.optimizer.fused", "true"),
}


@pytest.mark.parametrize(
    ("device", "feed"),
    [  # on the CPU once, for nothing waits there
        ("cpu", "resident"),
        *(pytest.param(GPU, feed, marks=pytest.mark.gpu, id=f"cuda-{feed}") for feed in FEEDS),
    ],
)
def test_fifty_steps_between_log_points_do_not_wait_for_the_device(
    device: str, feed: str, lightning, tmp_path: Path
) -> None:
    (tmp_path / "mynet.py").write_text(DROPOUT_NET + FORBID)
    steps = ("--data.batch_size", "16", "--trainer.log_every_n_steps", "60", "--trainer.callbacks", "mynet.Forbid")
    options = [*DROPOUT_RUN, *trainer_on(device), *steps, *FEEDS[feed]]
    done = lightning(*options, "--trainer.max_epochs", "1", "--run_dir", "run")
    assert done.status == 0, done.err
    import mynet  # pyrefly: ignore[missing-import]

    assert mynet.Forbid.count == 50


def gradients(backbone: nn.Module, images: Tensor, labels: Tensor, **options: Any) -> tuple[float, Tensor]:
    made = partial(SGD, lr=0.1)
    model = Classifier(copy.deepcopy(backbone), made, num_classes=10, mean=[0.3], std=[0.4], **options)
    model.to(images.device).train().setup("fit")
    loss = model.training_step((images, labels), 0)
    loss.backward()
    found = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return loss.item(), torch.cat([gradient.flatten().double().cpu() for gradient in found])


@on_gpu
@pytest.mark.parametrize("channels_last", [True, False])
def test_a_compiled_step_is_the_eager_one(device: str, channels_last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # in float32 alone are they comparable
    torch._dynamo.reset()
    torch.manual_seed(0)
    backbone = ResNet(10, in_channels=1, stem="cifar", width=16)
    numbers = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (32, 1, 8, 8), dtype=torch.uint8, generator=numbers).to(device)
    labels = torch.randint(0, 10, (32,), generator=numbers).to(device)
    (loss, eager), (compiled_loss, compiled) = (
        gradients(backbone, images, labels, channels_last=channels_last, compile=flag) for flag in (False, True)
    )
    assert compiled_loss == pytest.approx(loss, rel=1e-5)
    assert (compiled - eager).norm() < 1e-4 * eager.norm()
    # And both are the CPU's.
    here, expected = gradients(backbone, images.cpu(), labels.cpu())
    assert loss == pytest.approx(here, rel=1e-4)
    assert (eager - expected).norm() < 1e-3 * expected.norm()


def numbered(count: int, side: int = 8, channels: int = 3) -> ImageTensors:
    """Images of random pixels, labelled with their own numbers."""
    shape = (count, side, side, channels)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    return ImageTensors(images, torch.arange(count))


@everywhere
def test_batches_have_the_cpus_images_in_the_cpus_order(device: str) -> None:
    pixels = numbered(50)
    here, there = TrainLoader(pixels, 8, seed=3), TrainLoader(pixels, 8, seed=3, shard=Shard(torch.device(device)))
    for (images, labels), (moved, moved_labels) in zip(here, there, strict=True):
        assert moved.device.type == moved_labels.device.type == device
        assert moved.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(moved.cpu(), images)
        assert torch.equal(moved_labels.cpu(), labels)


AUGMENTATIONS = [
    Augmentation(translate=2, flip=True, cutout=3, fill=(1, 2, 3)),
    Augmentation(crop=(0.2, 1.0), flip=True),
]


@everywhere
@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_a_device_repeats_its_own_augmentation(device: str, augmentation: Augmentation) -> None:
    # Not that of another device: a GPU's generator (Philox) draws other numbers than the CPU's from the same seed.
    passes = [list(TrainLoader(numbered(40), 8, 3, augmentation, shard=Shard(torch.device(device)))) for _ in range(2)]
    torch.manual_seed(1)
    for (one, labels), (other, _) in zip(*passes, strict=True):
        assert torch.equal(one, other)
        plain = numbered(40).images[labels.cpu()].permute(0, 3, 1, 2)
        assert not torch.equal(one.cpu(), plain)


@everywhere
@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_the_same_draws_do_the_same_to_an_image_everywhere(
    device: str, augmentation: Augmentation, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, index, colour = numbered(40).store, torch.arange(32) % 40, torch.tensor([1, 2, 3], dtype=torch.uint8)
    for name in ("rand", "randint"):
        draw = getattr(torch, name)

        def drawn(*size: Any, generator: Any, device: Any, draw: Any = draw) -> Tensor:
            return draw(*size, generator=generator).to(device)

        monkeypatch.setattr(torch, name, drawn)
    here, there = (
        augmentation.gather(store.to(place), index.to(place), colour.to(place), torch.Generator().manual_seed(7)).cpu()
        for place in ("cpu", device)
    )
    apart = (here.int() - there.int()).abs()
    assert apart.max() <= (1 if augmentation.crop else 0)  # a value half-way may be rounded to either side
    assert (apart > 0).float().mean() < 0.01


class Large(ImageDataModule):
    class_names = ("dark", "bright")
    mean, std = (0.5,), (0.3,)
    input_size = (1, 64, 64)

    def load(self, part: str) -> ImageTensors:
        return ImageTensors(torch.zeros(10_000, 64, 64, 1, dtype=torch.uint8), torch.arange(10_000) % 2)


@on_gpu
def test_the_images_are_on_the_device_once(device: str) -> None:
    data = Large(batch_size=8)
    data.setup("fit")
    place = torch.device(device, 0) if device == "cuda" else torch.device(device)
    strategy = SimpleNamespace(root_device=place)
    data.trainer = SimpleNamespace(strategy=strategy, global_rank=0, world_size=1)  # type: ignore[assignment]
    before = torch.cuda.memory_allocated() if device == "cuda" else 0
    loaders: list[Any] = [data.train_dataloader(), data.val_dataloader()]
    assert loaders[0].pixels.store.data_ptr() == loaders[1].pixels.store.data_ptr()
    assert loaders[0].pixels.store.device.type == device
    if device == "cuda":
        whole = 10_000 * 64 * 64
        assert whole <= torch.cuda.memory_allocated() - before < 1.1 * whole


@on_gpu
def test_streamed_batches_are_pinned_for_the_device(device: str, tmp_path: Path) -> None:
    picture_folder(tmp_path / "train", "ab", each=12)
    data = ImageFolder(root=str(tmp_path), image_size=16, feed="streamed", batch_size=4)
    data.setup("fit")
    assert isinstance(data.train, Files)
    settings: dict[str, Any] = {"num_workers": 2, "shard": Shard(torch.device(device))}
    loader = StreamedTrainLoader(data.train, 4, 1, data.geometry, data.augmentation, **settings)
    images, labels = next(iter(loader))
    assert images.is_pinned() == labels.is_pinned() == (device == "cuda")
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert images.to(device, non_blocking=True).is_contiguous(memory_format=torch.channels_last)
    loader.close()


@everywhere
@pytest.mark.parametrize(("mixup", "cutmix"), [(0.2, 0.0), (0.0, 1.0), (0.2, 1.0)])
def test_mixed_images_are_channels_last_and_their_labels_sum_to_one(device: str, mixup: float, cutmix: float) -> None:
    model = Classifier(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)),
        *(partial(SGD, lr=0.1),),
        **{"num_classes": 10, "mean": [0.5] * 3, "std": [0.3] * 3, "mixup": mixup, "cutmix": cutmix},
    ).to(device)
    seen: list[Tensor] = []
    model.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images, labels = next(iter(TrainLoader(numbered(40), 8, seed=3, shard=Shard(torch.device(device)))))
    loss = model.training_step((images, labels % 10), 0)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert (seen[0].device.type, seen[0].dtype, loss.dtype) == (device, torch.float32, torch.float32)
    _, soft = model.mixing(model.normalize(images), labels % 10)
    torch.testing.assert_close(soft.sum(1).cpu(), torch.ones(8))


@everywhere
def test_the_average_of_weights_is_the_cpus(device: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
    networks = [network, copy.deepcopy(network).to(device)]
    averages = [WeightAverage(one, 0.9) for one in networks]
    for step in range(1, 6):
        for one, average in zip(networks, averages, strict=True):
            with torch.no_grad():
                for parameter in one.parameters():
                    parameter.add_(step)
            average.update(step)
    averages[1].load({name: value.cpu() for name, value in averages[1].averages().items()})  # as from a checkpoint
    averages[1].swap_in()
    for name, expected in averages[0].averages().items():
        torch.testing.assert_close(networks[1].state_dict()[name].cpu(), expected)


@pytest.fixture
def group(request: pytest.FixtureRequest) -> Iterator[None]:
    """A process group of this process alone."""
    device = request.getfixturevalue("device")
    options = {"rank": 0, "world_size": 1, "store": torch.distributed.HashStore()}
    torch.distributed.init_process_group({"cuda": "nccl", "cpu": "gloo"}[device], **options)
    yield
    torch.distributed.destroy_process_group()


@everywhere
@pytest.mark.parametrize("given", ["numbers", "tensor"])
def test_ranks_agree_while_the_device_works_on(device: str, given: str, group: None) -> None:
    place = torch.device(device, 0) if device == "cuda" else torch.device(device)
    # Two ranks by its own account: so it asks the group, which is of one.
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(root_device=place), world_size=2)
    maximum = AsyncMax(trainer)
    for number in range(20):
        values: Any = [number, 15]
        maximum.start(torch.tensor(values, device=place) if given == "tensor" else values)
        busy = torch.ones(2048, 2048, device=place) if device == "cuda" else torch.ones(8, 8)
        for _ in range(20):
            busy = busy @ busy / len(busy)  # what is queued behind the question
        assert maximum.wait() == [number, 15]
        assert busy[0, 0].item() == pytest.approx(1)
