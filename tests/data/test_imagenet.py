from pathlib import Path

from conftest import picture_folder

from resnet18 import ImageNet


def test_imagenets_validation_images_are_the_test_images(tmp_path: Path) -> None:
    picture_folder(tmp_path / "train", ["n01440764", "n01443537"], each=10)
    picture_folder(tmp_path / "val", ["n01440764", "n01443537"], each=3)
    data = ImageNet(str(tmp_path), image_size=32, batch_size=4, num_workers=0, cache_dir=str(tmp_path / "cache"))
    assert (data.geometry.share, data.crop, data.val_share, data.has_val) == (0.875, (0.08, 1.0), 0.01, False)
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    assert data.train is not None
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.image_ids())) == (18, 2, 6)
