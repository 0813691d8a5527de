"""Starting a new run from weights that exist: a run's, a checkpoint's, a ``.pth`` file's or torchvision's."""

from pathlib import Path

from torch import Tensor, nn

from resnet18.checkpoints import find_checkpoint, read_checkpoint
from resnet18.errors import RunError
from resnet18.head import head_name

PREFIX = "backbone."


def read_weights(source: str) -> dict[str, Tensor]:
    """The backbone's state dict that a name stands for.

    Args:
        source: A run's directory, a checkpoint, a file with a state dict, or the name of torchvision's weights, such as
            ``ResNet18_Weights.IMAGENET1K_V1`` (which are downloaded).

    Raises:
        RunError: Where there is no such thing.
    """
    if not Path(source).exists() and "_Weights." in source:
        from torchvision.models import get_weight

        try:
            return dict(get_weight(source).get_state_dict(check_hash=True))
        except (ValueError, KeyError) as error:
            raise RunError(f"init_from: torchvision has no weights {source} ({error})") from None
        except OSError as error:
            raise RunError(f"init_from: {source} could not be downloaded: {error}") from None
    path = find_checkpoint(source)
    content = read_checkpoint(path)
    weights = content.get("state_dict", content)
    if any(name.startswith(PREFIX) for name in weights):
        weights = {name.removeprefix(PREFIX): value for name, value in weights.items() if name.startswith(PREFIX)}
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise RunError(f"init_from: {path} holds no state dict")
    return dict(weights)


def start_from(backbone: nn.Module, source: str) -> str:
    """Loads weights into a backbone. A last layer for another number of classes keeps its own, fresh weights.

    Returns:
        What was done, in a sentence.

    Raises:
        RunError: Where anything but the last layer differs in name or shape; the backbone is left as it was.
    """
    weights = read_weights(source)
    own = backbone.state_dict()
    head = head_name(backbone)
    fresh = [
        name
        for name in own
        if name.startswith(f"{head}.") and (name not in weights or weights[name].shape != own[name].shape)
    ]
    kept = {name: value for name, value in weights.items() if not (fresh and name.startswith(f"{head}."))}
    expected = {name: value for name, value in own.items() if not (fresh and name.startswith(f"{head}."))}
    differing = [f"{name} is missing" for name in expected if name not in kept]
    differing += [f"{name} is not in the network" for name in kept if name not in expected]
    differing += [
        f"{name} is {tuple(kept[name].shape)}, the network's {tuple(value.shape)}"
        for name, value in expected.items()
        if name in kept and kept[name].shape != value.shape
    ]
    if differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise RunError(f"init_from: {source} is of another architecture: {'; '.join(differing[:3])}{more}")
    backbone.load_state_dict(kept, strict=False)
    return f"weights from {source}" + (f", a fresh {head} for the new classes" if fresh else "")
