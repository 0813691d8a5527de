"""Several processes that train as one, and a SLURM job, through the real program."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import DROPOUT_NET, ROOT, picture_folder, start
from lightning.fabric.utilities.rank_zero import rank_zero_only

import resnet18
from resnet18 import ImageTensors
from resnet18.backbone import ResNet
from resnet18.data.feeds.augment import Augmentation
from resnet18.data.feeds.files import Files, Geometry
from resnet18.data.feeds.order import Shard
from resnet18.data.feeds.streamed import StreamedTrainLoader
from resnet18.errors import RunError
from resnet18.optimization import NORMS, decay_groups

SLOWED = "time.sleep(float(os.environ.get('SLOW', 0)))\n        return self.fc"
MINE = (
    DROPOUT_NET.replace("return self.fc", SLOWED)
    + """
import json, os, time, zlib

from lightning.pytorch import Callback


class Seen(Callback):
    # Which images each step shows to each rank.
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if "SEEN" in os.environ:
            images = [zlib.crc32(image.numpy().tobytes()) for image in batch[0].permute(0, 2, 3, 1).contiguous()]
            with open(f"{os.environ['SEEN']}-{trainer.global_rank}", "a") as file:
                file.write(json.dumps(images) + "\\n")
"""
)
RUN = (
    *("fit", "--model.backbone", "mine.WithDropout", "--model.optimizer", "SGD", "--model.optimizer.lr", "0.1"),
    *(
        "--model.optimizer.momentum",
        "0.9",
        "--model.schedule",
        "resnet18.schedules.WarmupCosine",
        "--data",
        "Digits",
        "--data.translate",
        "0",
    ),
    *("--trainer.callbacks", "mine.Seen", "--trainer.max_epochs", "3", "--trainer.log_every_n_steps", "5"),
    *("--last.every_n_steps", "7", "--trainer.accelerator", "cpu"),
)
STEPS = 60
PAIR = ("--data.batch_size", "32", "--trainer.devices", "2", "--trainer.strategy", "ddp")
NODES = (
    *("--data.batch_size", "32", "--trainer.devices", "1", "--trainer.num_nodes", "2"),
    *("--trainer.strategy", "DDPStrategy", "--trainer.strategy.gradient_as_bucket_view", "true"),
)
QUIET = ("--trainer.logger", "false")


def last(run: Path) -> dict:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def rows(run: Path) -> list[dict[str, str]]:
    path = run / "metrics.csv"
    return list(csv.DictReader(path.open())) if path.exists() else []


def torchrun(arguments: tuple[object, ...], place: Path, **environment: str) -> list[subprocess.Popen[str]]:
    """Two nodes on this machine, with a process each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = (sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1")
    common += ("--master_addr", "127.0.0.1", "--master_port", port)
    return [
        start(arguments, place, (*common, "--node_rank", node, "-m", "resnet18"), **environment) for node in ("0", "1")
    ]


def children(pid: int) -> list[int]:
    """Processes of the program that a process has started."""
    found = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [one for one in found if "resnet18" in Path(f"/proc/{one}/cmdline").read_text()]


def wait_for_checkpoint(processes: list[subprocess.Popen[str]], run: Path, after: int = 0) -> None:
    """Waits until the training processes have saved a step after this one."""
    limit = time.monotonic() + 100
    while last_step(run) <= after:
        if time.monotonic() > limit or any(process.poll() is not None for process in processes):
            raise AssertionError([process.communicate() for process in processes])
        time.sleep(0.02)


def last_step(run: Path) -> int:
    return last(run)["global_step"] if (run / "checkpoints" / "last.ckpt").exists() else 0


def assert_all_ended(place: Path) -> None:
    """No process that was given a path in this directory is left."""
    limit = time.monotonic() + 30
    while left := subprocess.run(["pgrep", "-af", str(place)], capture_output=True, text=True).stdout:
        assert time.monotonic() < limit, left
        time.sleep(0.1)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The place of a run on two nodes, started by torchrun, which names the run itself."""
    place = tmp_path_factory.mktemp("unbroken")
    (place / "mine.py").write_text(MINE)
    nodes = torchrun((*RUN, *NODES), place, SEEN="pair")
    outputs = [node.communicate(timeout=120) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert outputs[0][0].count("epoch 1/3") == 1
    assert not outputs[1][0]
    return place


def run_in(place: Path) -> Path:
    (run,) = (path.parent for path in (place / "runs" / "digits").glob("2*/config.yaml"))
    return run


def test_two_nodes_make_one_run(unbroken: Path) -> None:
    run = run_in(unbroken)
    assert sorted(path.name for path in unbroken.iterdir() if path.is_dir() and path.name[0] != "_") == ["runs"]
    assert len(list((run / "wandb").glob("offline-run-*"))) == 1
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    assert last(run)["global_step"] == STEPS


def test_two_ranks_train_on_the_images_of_one_rank_with_twice_the_batch(
    unbroken: Path, lightning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.setenv("SEEN", "one")
    done = lightning(*RUN, *QUIET, "--data.batch_size", "64", "--trainer.max_epochs", "2", "--run_dir", "run")
    assert done.status == 0, done.err
    one = [json.loads(line) for line in (tmp_path / "one-0").read_text().splitlines()]
    pair = [
        [json.loads(line) for line in (unbroken / f"pair-{rank}").read_text().splitlines()][: len(one)]
        for rank in range(2)
    ]
    assert len(one) == 40
    assert [images[0::2] for images in one] == pair[0]
    assert [images[1::2] for images in one] == pair[1]


def test_two_ranks_stream_the_images_of_one(tmp_path: Path) -> None:
    picture_folder(tmp_path, each=10)
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*.jpg"))
    files = Files(tmp_path, names, torch.arange(len(names)))

    def batches(size: int, rank: int = 0, world_size: int = 1) -> list[tuple[torch.Tensor, ...]]:
        geometry, flip = Geometry(16, 16), Augmentation(flip=True)
        return list(StreamedTrainLoader(files, size, 3, geometry, flip, shard=Shard(rank=rank, world_size=world_size)))

    one, pair = batches(4), [batches(2, rank=rank, world_size=2) for rank in range(2)]
    assert len(one) == 5
    for (images, labels), *shares in zip(one, *pair, strict=True):
        for rank, (rank_images, rank_labels) in enumerate(shares):
            assert torch.equal(images[rank::2], rank_images)  # augmented alike, too
            assert torch.equal(labels[rank::2], rank_labels)


def test_two_ranks_score_every_image_once(unbroken: Path, lightning, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_in(unbroken)
    row = [row for row in rows(run) if row["val/top1"]][-1]
    monkeypatch.syspath_prepend(unbroken)
    data = resnet18.load_run(run).data
    model = resnet18.load_run(run / "checkpoints" / "last.ckpt").model
    data.setup("validate")
    assert isinstance(data.val, ImageTensors)
    with torch.no_grad():
        logits = model(data.val.images.permute(0, 3, 1, 2))
    hits = (logits.argmax(1) == data.val.labels).sum().item()
    assert len(data.val.labels) % 2 == 1  # a padded sampler would count an image twice
    assert round(float(row["val/top1"]) * len(data.val.labels), 3) == hits
    loss = torch.nn.functional.cross_entropy(logits, data.val.labels).item()
    assert float(row["val/loss"]) == pytest.approx(loss, rel=1e-5)
    # Other batches than those of one rank, and one more of them on the first rank than on the second.
    two_ranks = ("--trainer.devices", "2", "--trainer.num_nodes", "1", "--data.eval_batch_size", "179")
    process = start(["test", "--ckpt_path", run, *two_ranks], unbroken)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    kept = json.loads((run / "evaluation-test.json").read_text())
    monkeypatch.chdir(unbroken)
    one_rank = ("--trainer.devices", "1", "--trainer.num_nodes", "1", "--trainer.strategy", "auto")
    assert lightning("test", "--ckpt_path", run, *one_rank).status == 0
    two, one = resnet18.load_run(run).evaluations[-2:]
    assert two["test/top1"] == one["test/top1"]
    assert two["test/top5"] == one["test/top5"]
    assert two["test/loss"] == pytest.approx(one["test/loss"], rel=1e-6)
    alone = json.loads((run / "evaluation-test.json").read_text())
    assert alone["images"] == 359
    assert kept["confusion"] == alone["confusion"]
    assert [one["image"] for one in kept["mistakes"]] == [one["image"] for one in alone["mistakes"]]


def test_a_run_of_two_ranks_resumes_on_one_only_between_epochs(unbroken: Path, lightning, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    shutil.copytree(run_in(unbroken), tmp_path / "run")
    one_rank = ("--trainer.devices", "1", "--trainer.num_nodes", "1", "--trainer.strategy", "auto", *QUIET)
    how_to_resume = (*one_rank, "--trainer.max_epochs", "4")
    done = lightning("fit", "--ckpt_path", "run/checkpoints/previous.ckpt", *how_to_resume)  # after step 56
    assert (done.status, len(done.err.splitlines())) == (1, 1)
    assert "has 16 of an epoch's 20 batches of 64 images behind it, and an epoch has 40 of 32 here" in done.err
    done = lightning("fit", "--ckpt_path", "run", *how_to_resume)
    assert done.status == 0, done.err
    assert last(Path("run"))["global_step"] == STEPS + 40
    assert [row["epoch"] for row in rows(Path("run")) if row["val/loss"]] == ["0", "1", "2", "3"]


def test_a_run_that_lost_its_ranks_one_by_one_ends_as_the_unbroken_one(unbroken: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    run = tmp_path / "run"
    how_to_resume = "resume with: lightning fit --ckpt_path"
    resume = ("fit", "--ckpt_path", run)

    first = start([*RUN, *PAIR, *QUIET, "--run_dir", run], tmp_path, SLOW="0.02")  # one machine: kill its second rank
    wait_for_checkpoint([first], run)
    os.kill(children(first.pid)[0], signal.SIGKILL)
    _, err = first.communicate(timeout=60)
    assert first.returncode == 1
    assert f"fit: rank 1 is gone (killed by SIGKILL); {how_to_resume} {run}\n" in err
    assert "Traceback" not in err
    assert_all_ended(tmp_path)

    reached = last_step(run)
    second = start(resume, tmp_path, SLOW="0.02")  # its first rank, which has started the other
    wait_for_checkpoint([second], run, after=reached)
    second.kill()
    _, err = second.communicate(timeout=60)
    assert f"fit: rank 1: rank 0 is gone; {how_to_resume} run\n" in err
    assert "Traceback" not in err
    assert_all_ended(tmp_path)

    reached = last_step(run)
    nodes = torchrun((*resume, "--trainer.devices", "1", "--trainer.num_nodes", "2"), tmp_path, SLOW="0.02")
    wait_for_checkpoint(nodes, run, after=reached)
    for pid in (*children(nodes[1].pid), nodes[1].pid):  # a whole node
        os.kill(pid, signal.SIGKILL)
    _, err = nodes[0].communicate(timeout=60)
    nodes[1].communicate(timeout=60)
    assert nodes[0].returncode == 1
    assert f"fit: another rank is gone; {how_to_resume} run\n" in err
    assert_all_ended(tmp_path)

    reached = last_step(run)
    resume += ("--trainer.devices", "2", "--trainer.num_nodes", "1")
    third = start(resume, tmp_path, SLOW="0.02")  # and none: a signal to one rank stops both
    wait_for_checkpoint([third], run, after=reached)
    third.send_signal(signal.SIGTERM)
    _, err = third.communicate(timeout=60)
    assert third.returncode == 128 + signal.SIGTERM, err
    assert err.count("stopped by SIGTERM") == 1
    assert_all_ended(tmp_path)

    assert reached < last_step(run) < STEPS
    rest = start(resume, tmp_path)
    _, err = rest.communicate(timeout=120)
    assert rest.returncode == 0, err
    whole, resumed = last(run_in(unbroken)), last(run)
    assert resumed["global_step"] == whole["global_step"] == STEPS
    for name, value in whole["state_dict"].items():
        assert torch.equal(resumed["state_dict"][name], value), name
    kept = [[row["step"], row["train/loss"], row["val/loss"]] for row in rows(run)]
    assert kept == [[row["step"], row["train/loss"], row["val/loss"]] for row in rows(run_in(unbroken))]


SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do shift; done
SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_STEP_ID=0 exec "$@"
"""


def test_a_job_that_slurm_stops_is_queued_again_and_resumes(tmp_path: Path) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "srun").write_text(SRUN)
    (commands / "scontrol").write_text('#!/bin/sh\necho "$@" >> asked\n')
    for command in commands.iterdir():
        command.chmod(0o755)
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    job = {"JOB_ID": "4711", "JOB_NAME": "resnet18", "NTASKS": "1", "NTASKS_PER_NODE": "1", "JOB_NUM_NODES": "1"}
    job |= {"NNODES": "1", "NODELIST": "127.0.0.1", "CPUS_PER_TASK": "1"}
    environment = {f"SLURM_{name}": value for name, value in job.items()}
    environment["PATH"] = f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    small = ("--model.backbone", "mine.WithDropout", "--trainer.accelerator", "cpu", "--trainer.precision", "32-true")
    submitted = ("configs/digits.yaml", *small, "--trainer.max_epochs", "2", *QUIET, "--last.every_n_steps", "4")
    script = ("bash", ROOT / "configs" / "slurm.sbatch", *submitted)
    run = tmp_path / "runs" / "slurm" / "4711"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()  # of a first time that ended before it saved anything

    job_process = start(script[1:], tmp_path, script[:1], SLOW="0.05", **environment)
    wait_for_checkpoint([job_process], run)
    job_process.send_signal(signal.SIGUSR1)
    _, err = job_process.communicate(timeout=60)
    assert job_process.returncode == 128 + signal.SIGUSR1, err
    assert (tmp_path / "asked").read_text() == "requeue 4711\n"
    reached = last_step(run)
    assert 4 < reached < 40

    job_process = start(script[1:], tmp_path, script[:1], **environment)
    _, err = job_process.communicate(timeout=120)
    assert job_process.returncode == 0, err
    assert last_step(run) == 40
    assert [path.name for path in run.parent.glob("*.unsaved-*")]
    assert len(list(run.parent.iterdir())) == 2
    assert [row["step"] for row in rows(run) if row["train/loss"]] == ["9", "19", "29", "39"]


@pytest.fixture
def started_by_torchrun(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "1"}
    for name, value in ranks.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_processes_and_devices_must_match(started_by_torchrun, lightning, tmp_path: Path) -> None:
    done = lightning("fit", "--config", ROOT / "configs" / "digits.yaml", "--trainer.accelerator", "cpu")
    assert done.status == 2
    assert "trainer.devices × trainer.num_nodes is 1, but torchrun started 2" in done.err
    assert not list(tmp_path.iterdir())


def test_other_nodes_need_an_address(lightning, tmp_path: Path) -> None:
    config = ("--config", ROOT / "configs" / "digits.yaml", "--config", ROOT / "configs" / "trainer" / "slurm.yaml")
    done = lightning("fit", *config, "--trainer.accelerator", "cpu")
    assert done.status == 2
    assert "trainer.num_nodes is 2, and nothing says where the others are: start it with torchrun or srun" in done.err
    assert not list(tmp_path.iterdir())


def test_sync_batchnorm_is_refused_on_cpus(started_by_torchrun, lightning, tmp_path: Path) -> None:
    config = ("--config", ROOT / "configs" / "digits.yaml", "--config", ROOT / "configs" / "trainer" / "ddp.yaml")
    cpus = ("--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.sync_batchnorm", "true")
    done = lightning("fit", *config, *cpus)
    assert done.status == 2
    assert "trainer.sync_batchnorm: torch has it for CUDA only, and the accelerator is cpu" in done.err
    assert not list(tmp_path.iterdir())


def test_synchronised_norm_layers_are_named_undecayed_and_frozen_like_others() -> None:
    plain = ResNet(num_classes=10, width=8)
    shared = torch.nn.SyncBatchNorm.convert_sync_batchnorm(ResNet(num_classes=10, width=8))
    norms = [part for part in shared.modules() if isinstance(part, torch.nn.SyncBatchNorm)]
    assert len(norms) == sum(isinstance(part, torch.nn.BatchNorm2d) for part in plain.modules()) > 0
    assert all(isinstance(norm, NORMS) for norm in norms)
    assert list(shared.state_dict()) == list(plain.state_dict())
    assert [len(group["params"]) for group in decay_groups(shared)] == [
        len(group["params"]) for group in decay_groups(plain)
    ]


@pytest.mark.parametrize(("rank", "printed"), [(0, True), (1, False)])
def test_a_wrong_configuration_is_printed_once(
    rank: int, printed: bool, lightning, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", rank)
    done = lightning("fit", "--model.bckbone", "x")
    assert done.status == 2
    assert ("did you mean model.backbone?" in done.err) == printed


def test_messages_of_other_ranks_start_with_their_number(lightning, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 3)
    done = lightning("test", "--ckpt_path", "nowhere")
    assert done.status == 1
    assert done.err.startswith("lightning test: rank 3: there is no checkpoint or run nowhere")


def test_every_rank_needs_an_image_to_score(monkeypatch: pytest.MonkeyPatch) -> None:
    data = resnet18.Digits()
    data.setup("test")
    monkeypatch.setattr(data, "_shard", lambda: Shard(world_size=360))
    with pytest.raises(RunError, match="359 images to score can't be shared out over 360 ranks"):
        data.test_dataloader()
