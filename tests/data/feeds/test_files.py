import os
import pickle

from resnet18.data.feeds.files import Geometry, Names


def test_images_grow_in_steps_of_32_pixels_between_the_given_shares_of_the_run() -> None:
    geometry = Geometry(train=192, evaluation=256, first=96, growth=(0.5, 0.8))
    sizes = [geometry.train_size(epoch, 10) for epoch in range(10)]
    assert sizes == [96, 96, 96, 96, 96, 96, 128, 160, 192, 192]
    assert {Geometry(224, 224).train_size(epoch, 10) for epoch in range(10)} == {224}
    # FFCV's rn18 configuration of 16 epochs, which grows between epochs 11 and 13.
    ffcv = Geometry(192, 256, first=160, growth=(11 / 16, 13 / 16))
    assert [ffcv.train_size(epoch, 16) for epoch in range(16)] == [160] * 12 + [192] * 4


def test_names_are_those_given_also_where_they_are_not_unicode_and_in_another_process() -> None:
    given = ["a.jpg", os.fsdecode(b"caf\xe9.jpg"), "ü/a longer name.jpg", ""]
    names = pickle.loads(pickle.dumps(Names(given)))
    assert list(names) == given
    assert (len(names), names[-2]) == (4, given[2])
    assert not Names([])
