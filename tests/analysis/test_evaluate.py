"""An evaluation: equal to the run's own, kept in its directory, shared with the report, and what it tells."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from conftest import copied, picture_folder
from python_runs import NET, Mislabelled, Stripes, python_run
from torch import Tensor
from torch.nn.functional import cross_entropy

from resnet18 import Classifier, Digits, ImageFolder, load_run
from resnet18.analysis import evaluate as evaluating
from resnet18.analysis.evaluate import Evaluation
from resnet18.errors import RunError, UsageError
from resnet18.report import figures
from resnet18.report.evaluation_file import counts
from resnet18.report.intervals import wilson
from resnet18.storage.records import read_evaluation
from resnet18.storage.status import Status


@pytest.fixture(scope="module")
def scored(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Evaluation]:
    """A copy of the shared run, which was evaluated, and what that found. Not to be changed."""
    run = copied(trained, tmp_path_factory.mktemp("scored"))
    return run, load_run(run).evaluate()


def cells(matrix: numpy.ndarray) -> list[list[int]]:
    return [[int(a), int(b), int(matrix[a, b])] for a, b in zip(*matrix.nonzero(), strict=True)]


def test_it_is_what_the_runs_own_validation_found(scored: tuple[Path, Evaluation], trained: Path) -> None:
    run, found = scored
    kept = read_evaluation(run, "val")
    assert kept is not None
    assert cells(found.confusion()) == kept["confusion"]
    assert found.reliability()["bins"] == kept["calibration"]["bins"]
    assert found.facts["scores"] == pytest.approx(kept["scores"], rel=1e-5)
    assert (run / "evaluation-val.json").read_bytes() == (trained / "evaluation-val.json").read_bytes()
    assert repr(found) == f"Evaluation(val: {int(found.confusion().trace())} of 143 right, 10 classes)"


def test_the_report_has_the_same_numbers(lightning: Any, tmp_path: Path, scored: tuple[Path, Evaluation]) -> None:
    before = read_evaluation(scored[0], "val")
    assert before is not None
    run = copied(scored[0], tmp_path)
    (run / "evaluation-val.json").unlink()
    shutil.rmtree(run / "evaluation")
    found = load_run(run).evaluate()
    after = read_evaluation(run, "val")
    assert after is not None
    for name in ("confusion", "class_names", "images", "step", "epoch", "checkpoint", "split_hash"):
        assert after[name] == before[name], name
    assert after["scores"] == pytest.approx(before["scores"], rel=1e-5)
    assert [one["image"] for one in after["mistakes"]] == [one["image"] for one in before["mistakes"]]
    for one, other in zip(after["mistakes"], before["mistakes"], strict=True):
        assert (run / one["picture"]).read_bytes() == (scored[0] / other["picture"]).read_bytes()
    assert lightning("report", run).status == 0
    drawn = figures.confusion({"class_names": found.class_names, "confusion": cells(found.confusion())})
    assert drawn in (run / "report.html").read_text()


def test_another_kernel_finds_it_and_nothing_wrong_is_taken(
    scored: tuple[Path, Evaluation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, computed = copied(scored[0], tmp_path), list[int]()
    step = Classifier.validation_step
    monkeypatch.setattr(
        Classifier, "validation_step", lambda *given: computed.append(len(given[1][0])) or step(*given)
    )  # images
    path = run / "evaluation" / "val.npz"
    loaded = load_run(run)
    again = loaded.evaluate()
    assert loaded.evaluate() is again
    assert not computed
    for name in ("labels", "logits", "predicted", "confidence"):
        assert numpy.array_equal(getattr(again, name), getattr(scored[1], name))
    assert (again.ids, again.class_names, again.facts) == (scored[1].ids, scored[1].class_names, scored[1].facts)
    whole = path.read_bytes()
    for content in (b"", b"garbage", whole[:-3000], whole[:2000]):
        path.write_bytes(content)
        assert numpy.array_equal(load_run(run).evaluate().predicted, scored[1].predicted)
        assert path.stat().st_size == len(whole)
    assert len(computed) == 4
    # Another checkpoint's, and then this one's anew.
    last = load_run(run / "checkpoints" / "last.ckpt").evaluate()
    assert last.facts["checkpoint"] == "checkpoints/last.ckpt"
    assert read_evaluation(run, "val")["checkpoint"] == "checkpoints/last.ckpt"  # type: ignore[index]
    load_run(run).evaluate()
    assert read_evaluation(run, "val")["checkpoint"] == "checkpoints/best.ckpt"  # type: ignore[index]
    assert len(computed) == 6
    # Given data may be treated otherwise: nothing is read or written.
    path.write_bytes(b"kept")
    load_run(run, data=Digits()).evaluate()
    load_run(run, data={"eval_batch_size": 100}).evaluate()
    assert path.read_bytes() != b"kept"
    assert len(computed) == 9  # in two batches, the last time
    path.write_bytes(b"kept")
    load_run(run, data={"translate": 2}).evaluate()
    assert path.read_bytes() == b"kept"
    monkeypatch.setattr(evaluating, "LARGEST", 1000)
    load_run(run).evaluate()
    assert not path.exists()
    assert not list((run / "evaluation").glob(".*"))


def test_a_run_that_trains_writes_its_own(scored: tuple[Path, Evaluation], tmp_path: Path) -> None:
    run = copied(scored[0], tmp_path)
    (run / "evaluation-val.json").unlink()
    status = Status(run)
    load_run(run).evaluate()
    assert not (run / "evaluation-val.json").exists()
    status.close("stopped")
    (run / "evaluation-val.json").write_text("broken")
    load_run(run).evaluate()
    assert read_evaluation(run, "val")


def test_a_directory_that_is_read_only_keeps_nothing(
    scored: tuple[Path, Evaluation], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(scored[0], tmp_path)
    shutil.rmtree(run / "evaluation")
    (run / "evaluation").write_text("in the way")  # root may write anywhere
    assert len(load_run(run).evaluate().labels) == 143
    assert f"the evaluation is not kept in {run}: " in capsys.readouterr().err


def test_test_images_are_seen_by_the_test_first(
    lightning: Any, scored: tuple[Path, Evaluation], tmp_path: Path
) -> None:
    run = copied(scored[0], tmp_path)
    for place in (run, run / "checkpoints" / "best.ckpt"):
        with pytest.raises(
            RunError, match=r"^the test images are seen by `lightning test` first, once all is decided: l"
        ):
            load_run(place).evaluate("test")
    with pytest.raises(UsageError, match=r"^evaluate\(\) takes val or test, not 'train'$"):
        load_run(run).evaluate("train")  # type: ignore[arg-type]
    assert lightning("test", "--ckpt_path", run, "--trainer.logger", "false").status == 0
    kept = (run / "evaluation-test.json").read_bytes()
    found = load_run(run).evaluate("test")
    assert cells(found.confusion()) == json.loads(kept)["confusion"]
    assert found.facts["scores"] == pytest.approx(json.loads(kept)["scores"], rel=1e-5)
    load_run(run / "checkpoints" / "last.ckpt").evaluate("test")
    assert (run / "evaluation-test.json").read_bytes() == kept
    assert len(load_run(run).evaluate("test").images([0, 358])) == 2


def test_it_counts_and_ranks(scored: tuple[Path, Evaluation]) -> None:
    _, found = scored
    matrix, logits, labels = found.confusion(), torch.from_numpy(found.logits), torch.from_numpy(found.labels)
    losses = cross_entropy(logits, labels, reduction="none")
    for (true, predicted), count in numpy.ndenumerate(matrix):
        assert count == ((found.labels == true) & (found.predicted == predicted)).sum()
    assert numpy.allclose(found.confusion(normalize=True).sum(1), 1)
    worst = found.worst(5)
    assert [row["index"] for row in worst] == losses.argsort(descending=True)[:5].tolist()
    first = worst[0]
    assert first["loss"] == pytest.approx(float(losses.max()))
    assert first["of_true"] == pytest.approx(float((-losses.max()).exp()), rel=1e-4)
    assert first["image"] == found.ids[first["index"]]
    assert first["true"] == found.class_names[found.labels[first["index"]]]
    pairs = [row["images"] for row in found.most_confused(100)]
    assert pairs == sorted(pairs, reverse=True)
    assert sum(pairs) == (found.labels != found.predicted).sum()
    top = found.most_confused(1)[0]
    assert matrix[int(top["true"]), int(top["predicted"])] == top["images"]
    assert sum(row["images"] for row in found.per_class()) == 143
    for row in found.per_class():
        assert row["accuracy"] == row["right"] / row["images"]
        assert (row["low"], row["high"]) == wilson(row["right"], row["images"])
    calibration = counts(found.labels, found.predicted, found.confidence, found.class_names)["calibration"]
    assert found.reliability() == calibration
    assert found.probabilities.shape == (143, 10)
    assert numpy.allclose(found.probabilities.max(1), found.confidence, atol=1e-6)


def test_its_images_and_embeddings_are_the_networks(scored: tuple[Path, Evaluation]) -> None:
    _, found = scored
    model, data = found.run.model, found.run.data
    data.setup("validate")
    images = data.val.images.permute(0, 3, 1, 2)
    assert torch.equal(found.images([7, 0]), images[[7, 0]])
    assert len(found.images([])) == 0
    with torch.no_grad():
        expected = model.backbone.embed(model.normalize(images))
    assert numpy.allclose(found.embeddings(), expected.numpy(), atol=1e-6)
    assert found.embeddings() is found.embeddings()


def test_wrong_labels_are_suspected(tmp_path: Path) -> None:
    data = Mislabelled(each=60, batch_size=8)
    found = python_run(tmp_path / "model.ckpt", data, epochs=4).evaluate()
    right = (found.run.data.val.rows.numpy() % 2 == found.labels).astype(int)
    wrong = set((right == 0).nonzero()[0].tolist())
    assert wrong
    suspects = found.suspects(100)
    assert {row["index"] for row in suspects} == wrong
    assert all(row["suggested"] == row["predicted"] != row["true"] for row in suspects)
    assert [row["of_true"] for row in suspects] == sorted(row["of_true"] for row in suspects)
    assert found.suspects(2) == suspects[:2]


def test_streamed_images_are_evaluated_too(tmp_path: Path) -> None:
    picture_folder(tmp_path / "train", each=6)
    data = ImageFolder(str(tmp_path), image_size=16, feed="streamed", num_workers=0, batch_size=4, val_share=0.5)
    found = python_run(tmp_path / "model.ckpt", data, NET).evaluate()
    whole = torch.cat([images for images, *_ in data.val_dataloader()])
    assert torch.equal(found.images([3, 1]), whole[[3, 1]])
    assert found.ids == list(data.image_ids("val"))
    assert found.embeddings().shape == (6, 64)


def test_other_splits_and_tasks_are_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="the checkpoint's split_hash is"):
        load_run(trained, data={"split_seed": 3}).evaluate()

    class Values(Classifier):
        def make_metrics(self) -> dict[str, Any]:
            return {}

        def decide(self, logits: Tensor) -> tuple[Tensor, Tensor]:
            return logits > 0, logits.sigmoid()

    class Several(Stripes):
        def changed(self, labels: Tensor) -> Tensor:
            return torch.nn.functional.one_hot(labels, 2).float()

        def check_targets(self, targets: Tensor, name: str) -> None:
            pass

        def strata(self, targets: Tensor) -> Tensor:
            return targets[:, 0].long()

    run = python_run(tmp_path / "model.ckpt", Several(), NET, Values, loss="binary_cross_entropy")
    with pytest.raises(RunError, match=r"^evaluate\(\) is for one class an image"):
        load_run(tmp_path / "model.ckpt", data=run.data).evaluate()


def made(probabilities: list[list[float]], labels: list[int]) -> Evaluation:
    """An evaluation of these."""
    shares, names = numpy.array(probabilities, numpy.float32), ["a", "b", "c"]
    predicted, ids = shares.argmax(1), [str(number) for number in range(len(labels))]
    return Evaluation("val", names, ids, numpy.array(labels), numpy.log(shares), predicted, shares.max(1), {}, None)


def test_a_suspect_is_as_likely_of_another_class_as_that_classes_own_images_are() -> None:
    rows = [[0.8, 0.1, 0.1], [0.4, 0.3, 0.3], [0.05, 0.9, 0.05], [0.59, 0.05, 0.36], [0.3, 0.5, 0.2], [0.65, 0.3, 0.05]]
    found = made(rows, [0, 0, 1, 1, 0, 1])
    assert numpy.isclose(numpy.exp(-found.losses), [0.8, 0.4, 0.9, 0.05, 0.3, 0.3]).all()
    usual = {"a": (0.8 + 0.4 + 0.3) / 3, "b": (0.9 + 0.05 + 0.3) / 3}
    suspects = found.suspects()
    assert {(row["index"], row["true"], row["suggested"]) for row in suspects} == {
        (3, "b", "a"),
        (5, "b", "a"),
        (4, "a", "b"),
    }
    assert [row["of_true"] for row in suspects] == pytest.approx([0.05, 0.3, 0.3])
    assert rows[3][0] >= usual["a"]
    assert rows[4][1] >= usual["b"]
    assert rows[1][0] < usual["a"]  # unsure, but of no other class


def test_a_class_without_images_is_left_out() -> None:
    found = made([[0.5, 0.25, 0.25]], [1])
    assert numpy.isnan(found.confusion(normalize=True)[0]).all()
    assert [row["class"] for row in found.per_class()] == ["b"]
    assert found.most_confused() == [{"true": "b", "predicted": "a", "images": 1}]
    assert found.suspects() == []
