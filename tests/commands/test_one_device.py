"""What `check` and `bench` run on."""

from conftest import CONFIG, SMALL

from resnet18.commands.one_device import OneDevice


class Looks(OneDevice):
    def _looks(self) -> None:
        self.load_data()


def test_one_of_several_devices_is_used_and_no_run_is_left(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--trainer.devices", "2", "--trainer.accelerator", "cpu", "--trainer.strategy", "ddp"]
    command = Looks("looks", ["--config", str(CONFIG), *SMALL, *options])
    command.run()
    assert command.trainer.world_size == 1
    assert command.title() == "ResNet, 176,258 parameters, on cpu, 32-true"
    assert list(tmp_path.iterdir()) == []
