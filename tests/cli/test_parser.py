"""The parser: what its errors say of a value out of range, of null, and of the class of a model."""

from typing import Annotated, Any, Literal

import pytest
import yaml
from jsonargparse import ActionConfigFile
from pydantic import Field

from resnet18 import Classifier
from resnet18.cli.explain import KeyedError
from resnet18.cli.parser import Parser, refuse_nulls

Count = Annotated[int, Field(ge=1)]


class Part:
    def __init__(
        self,
        count: Count = 1,
        perhaps: Count | None = None,
        share: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = 0.5,
        most: Annotated[float, Field(le=1)] | Literal["auto"] = 1.0,
        sizes: tuple[Count, Count] = (1, 1),
        strict: int = 1,
        nullable: int | None = 1,
        implicit: int = None,  # type: ignore[assignment]  # noqa: RUF013
        anything: Any = 1,
        untyped=1,
    ) -> None:
        pass


def parser() -> Parser:
    made = Parser()
    made.add_argument("--config", action=ActionConfigFile)
    made.add_class_arguments(Part, "part", fail_untyped=False)
    made.add_subclass_arguments(Part, "data", required=False, fail_untyped=False)
    return made


OUT_OF_RANGE = {
    "count=0": "count: must be at least 1, not 0",
    "count=x": "count: expected a whole number, not 'x'",
    "count=1.5": "count: expected a whole number, not '1.5'",
    "count=[1]": "count: expected a whole number, not '[1]'",
    "perhaps=0": "perhaps: must be at least 1, not 0",
    "perhaps=x": "perhaps: expected a whole number, not 'x'",
    "share=0": "share: must be above 0, not 0",
    "share=2": "share: must be below 1, not 2",
    "share=nan": "share: expected a finite number, not ",
    "share=inf": "share: expected a finite number, not ",
    "most=2": "most: must be at most 1, not 2",
    "most=aut": "most: expected a number or 'auto', not 'aut'; did you mean auto?",
    "sizes=[0, 1]": "sizes: must be at least 1, not 0",
}


@pytest.mark.parametrize("given", OUT_OF_RANGE)
@pytest.mark.parametrize("place", ["part", "data"])
def test_a_value_out_of_range_is_refused_in_a_line(place: str, given: str) -> None:
    options = [] if place == "part" else [f"--data={__name__}.Part"]
    with pytest.raises(KeyedError) as refused:
        parser().parse_args([*options, f"--{place}.{given}"])
    assert str(refused.value).startswith(f"{place}.{OUT_OF_RANGE[given]}")
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["count", "share", "sizes", "strict"])
def test_null_is_refused_where_it_is_no_value(name: str) -> None:
    made = parser()
    text = yaml.safe_dump({"data": {"class_path": f"{__name__}.Part", "init_args": {name: None}}})
    with pytest.raises(KeyedError, match=rf"^data\.{name}: expected .*, not null$"):
        refuse_nulls(made, made.parse_args([f"--config={text}"]))


def test_null_is_taken_where_it_is_a_value() -> None:
    made = parser()
    names = ("perhaps", "nullable", "implicit", "anything", "untyped")
    given = {"class_path": f"{__name__}.Part", "init_args": dict.fromkeys(names)}
    config = made.parse_args([f"--config={yaml.safe_dump({'data': given})}"])
    refuse_nulls(made, config)
    assert config.data.init_args.nullable is None
    assert made.parse_args([]).data is None  # the setting is as it was


def test_the_class_of_a_model_is_named_unless_it_is_the_projects_own() -> None:
    class Mine(Classifier):
        pass

    made = Parser()
    made.add_argument("--model.ema", type=float, default=0.0)
    config = made.parse_args([])
    assert yaml.safe_load(made.dump(config)) == {"model": {"ema": 0.0}}
    made.model_class = Mine
    named = yaml.safe_load(made.dump(config))["model"]
    assert named["class_path"].endswith("Mine")
    assert named["init_args"] == {"ema": 0.0}
