import textwrap
from pathlib import Path

import pytest
import torch
from conftest import CONFIG, ROOT, SMALL, picture_folder
from jsonargparse import Namespace
from torch import nn

import resnet18
from resnet18.cli.dry_run import check_forward, refused_values
from resnet18.errors import UsageError

NETS = """
    import torch
    from torch import nn


    class Deep(nn.Sequential):
        def __init__(self, num_classes: int) -> None:
            super().__init__(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 9), nn.Flatten(), nn.Linear(8, num_classes))


    class Wide(nn.Sequential):
        def __init__(self, num_classes: int) -> None:
            super().__init__(nn.Flatten(), nn.Linear(64, num_classes + 1))


    class Twice(nn.Module):
        def __init__(self, num_classes: int) -> None:
            super().__init__()
            self.layer = nn.Linear(64, num_classes)

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            logits = self.layer(images.flatten(1))
            return logits, logits
"""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--data.rgb", "true"), "model.backbone: ResNet does not fit images of 3×8×8: expected a batch of N×1×H×W"),
        (("--model.backbone", "mynet.Deep"), "model.backbone: Deep does not fit images of 1×8×8: Calculated padded"),
        (("--model.backbone", "mynet.Wide"), "Wide does not fit images of 1×8×8: it gives [1, 11], and not [1, 10]"),
        (("--model.backbone", "mynet.Twice"), "Twice does not fit images of 1×8×8: it gives tuple, and not [1, 10]"),
    ],
    ids=["channels", "size", "classes", "two outputs"],
)
def test_a_network_that_does_not_fit_the_images_is_named_before_anything_is_written(
    options: tuple[str, ...], message: str, lightning, tmp_path: Path
) -> None:
    (tmp_path / "mynet.py").write_text(textwrap.dedent(NETS))
    done = lightning("fit", "--config", CONFIG, *options)
    assert done.status == 2, done.out
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert not Path("runs").exists()


def test_grey_images_in_a_network_for_colour_are_refused(lightning, tmp_path: Path) -> None:
    picture_folder(tmp_path / "images" / "train")
    options = ("--data.channels", "1", "--data.cache_dir", "cache", "--data.batch_size", "4")
    done = lightning("fit", "--config", ROOT / "configs/imagefolder.yaml", *options)
    assert done.status == 2
    assert "ResNet does not fit images of 1×128×128" in done.err


def classifier(backbone: nn.Module) -> resnet18.Classifier:
    return resnet18.Classifier(backbone, torch.optim.SGD, num_classes=10, mean=[0.5], std=[0.5])


def test_the_model_is_left_as_it_was() -> None:
    backbone = resnet18.ResNet(num_classes=10, in_channels=1, width=8, stem="cifar")
    model = classifier(backbone)
    backbone.layer1.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    check_forward(model, (1, 8, 8), torch.device("cpu"))
    assert torch.equal(torch.rand(2), expected)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_network_is_tried_on_the_device_that_will_train_it() -> None:
    class DeviceOnly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if images.device.type == "cpu":
                raise RuntimeError("no CPU kernel")
            return self.layer(images.flatten(1))

    model = classifier(DeviceOnly())
    check_forward(model, (1, 8, 8), torch.device("meta"))
    assert model.mean.device.type == "cpu"
    with pytest.raises(UsageError, match="DeviceOnly does not fit images of 1×8×8: no CPU kernel"):
        check_forward(model, (1, 8, 8), torch.device("cpu"))


def test_values_that_mean_nothing_are_refused_by_key() -> None:
    nan, inf = float("nan"), float("inf")
    stop = Namespace(class_path="lightning.pytorch.callbacks.EarlyStopping", init_args=Namespace(monitor="test/loss"))
    config = Namespace(
        model=Namespace(optimizer=Namespace(class_path="torch.optim.SGD", init_args=Namespace(lr=inf)), mixup=nan),
        trainer=Namespace(callbacks=[stop], max_epochs=None, max_steps=0, gradient_clip_val=inf, log_every_n_steps=-1),
    )
    assert [key for key, _ in refused_values(config)] == [
        "model.optimizer.init_args.lr",
        "model.mixup",
        "trainer.callbacks[0].init_args.monitor",
        "trainer.max_steps",
        "trainer.log_every_n_steps",
    ]


def test_the_shipped_network_fits(lightning) -> None:
    assert lightning("fit", "--config", CONFIG, *SMALL, "--trainer.fast_dev_run", 1).status == 0
