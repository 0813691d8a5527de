"""ResNet-18, written by hand on torch alone.

He et al., "Deep Residual Learning for Image Recognition", https://arxiv.org/abs/1512.03385, with the module names,
the initialisation and the order of operations of torchvision's ``resnet18``: a state dict of either loads strictly
into the other, and the logits of both are equal bit for bit.

    >>> from resnet18 import resnet18
    >>> print(resnet18())                                        # 11,689,512 parameters
    >>> resnet18(num_classes=10, stem="cifar")                   # for 32×32 images
"""

from typing import Literal, get_args

from torch import Tensor, nn

Stem = Literal["imagenet", "cifar"]


def conv3x3(in_planes: int, out_planes: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_planes, out_planes, kernel_size=3, stride=stride, padding=1, bias=False)


def conv1x1(in_planes: int, out_planes: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_planes, out_planes, kernel_size=1, stride=stride, bias=False)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut: N×inplanes×H×W → N×planes×(H/stride)×(W/stride)."""

    def __init__(self, inplanes: int, planes: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = conv3x3(inplanes, planes, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(planes, planes)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = downsample  # None where the shortcut is the identity

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += shortcut
        return self.relu(out)


class ResNet(nn.Module):
    """The 18-layer residual network: N×in_channels×H×W float → N×num_classes logits.

    Args:
        num_classes: Width of the last layer.
        in_channels: Channels of the input: 3 for colour, 1 for grey.
        stem: ``imagenet``, the paper's 7×7 stride-2 convolution and max-pool; or ``cifar``, the 3×3 convolution of its
            section 4.2, which keeps images of 32×32 pixels and less from shrinking to a point at once.
        zero_init_residual: Start every residual branch at zero, so that the network starts as a shallow one.
        width: Channels of the first stage; the four stages have 1, 2, 4 and 8 times as many.

    Raises:
        ValueError: At once for an unknown stem or a count below one; in ``forward`` for a batch that is not
            N×in_channels×H×W.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        stem: Stem = "imagenet",
        zero_init_residual: bool = False,
        width: int = 64,
    ) -> None:
        super().__init__()
        for name, count in {"num_classes": num_classes, "in_channels": in_channels, "width": width}.items():
            if count < 1:  # torch would make an empty layer
                raise ValueError(f"{name} must be at least 1, not {count}")
        if stem not in get_args(Stem):
            raise ValueError(f"stem must be one of {', '.join(get_args(Stem))}, not {stem!r}")
        self.in_channels = in_channels

        # The order of construction is torchvision's: the same seed draws the same weights.
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(in_channels, width, kernel_size=7, stride=2, padding=3, bias=False)
        else:
            self.conv1 = conv3x3(in_channels, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1) if stem == "imagenet" else nn.Identity()
        self.layer1 = self._stage(width, width, stride=1)
        self.layer2 = self._stage(width, 2 * width, stride=2)
        self.layer3 = self._stage(2 * width, 4 * width, stride=2)
        self.layer4 = self._stage(4 * width, 8 * width, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8 * width, num_classes)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # Fan-out, from "Delving Deep into Rectifiers", https://arxiv.org/abs/1502.01852, keeps the variance of
                # the gradients; the ResNet paper cites it without saying which fan.
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        if zero_init_residual:
            # Not in the paper. Goyal et al., https://arxiv.org/abs/1706.02677, section 5.1: 0.2 to 0.3 points of top-1
            # on ImageNet (as torchvision notes for it).
            for module in self.modules():
                if isinstance(module, BasicBlock):
                    nn.init.zeros_(module.bn2.weight)

    def __repr__(self) -> str:
        # Newer versions of torch (2.14 is one) print one word more for every norm layer; this reads the same on all.
        return super().__repr__().replace("affine=True, bias=True", "affine=True")

    @staticmethod
    def _stage(inplanes: int, planes: int, stride: int) -> nn.Sequential:
        downsample = None
        if stride != 1 or inplanes != planes:
            # The paper's option B: a projection only where the shape changes.
            downsample = nn.Sequential(conv1x1(inplanes, planes, stride), nn.BatchNorm2d(planes))
        return nn.Sequential(BasicBlock(inplanes, planes, stride, downsample), BasicBlock(planes, planes))

    def stages(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four stages' outputs: N×(1, 2, 4, 8 · width), each half the height and width of the one before."""
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"expected a batch of N×{self.in_channels}×H×W, got {'×'.join(map(str, x.shape))}")
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        stage1 = self.layer1(x)
        stage2 = self.layer2(stage1)
        stage3 = self.layer3(stage2)
        return stage1, stage2, stage3, self.layer4(stage3)

    def embed(self, x: Tensor) -> Tensor:
        """The pooled vector before the last layer: N×(8 · width), 512 numbers an image at the width of 64."""
        return self.avgpool(self.stages(x)[-1]).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.embed(x))


resnet18 = ResNet  # the name that torchvision and most configs use
