"""The package's own names: imported when first used, and all of them there."""

import subprocess
import sys

import pytest

import resnet18


@pytest.mark.parametrize("name", resnet18.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert name in dir(resnet18)
    assert getattr(resnet18, name) is not None


def test_an_unknown_name_is_said_as_of_any_module() -> None:
    with pytest.raises(AttributeError, match="module 'resnet18' has no attribute 'nonsense'"):
        _ = resnet18.nonsense


def test_importing_the_package_imports_nothing_heavy() -> None:
    script = "import sys, resnet18; print({'torch', 'lightning', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "set()\n"
