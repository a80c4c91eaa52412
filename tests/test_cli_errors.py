"""Bad values on the command line: one short line that names the value, and no list of the types it does not fit."""

from pathlib import Path

import pytest
from callbacks.runs import DEBUG, fail

pytest_plugins = ["callbacks.runs"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model.sampler=DDIM", "--model.sampler.init_args.eta=2"], "eta=2.0: choose a value in [0, 1]"),
        (["--model.sampler=Nonsense"], 'Parser key "model.sampler": there is no class Nonsense: give its name'),
        (["--model.parameterization=Epss"], 'Parser key "model.parameterization": there is no class Epss'),
        (
            ["--model.degradation=GaussianNoise", "--model.degradation.schedule=nonsense"],
            "Expected a typing.Literal['cosine', 'linear'] - there is no class nonsense",
        ),
        (["--model.sampler=Cold", "--model.sampler.init_args.eta=1"], "Option 'eta' is not accepted"),
    ],
    ids=["out of range", "no such sampler", "no such parameterization", "no such schedule", "no such argument"],
)
def test_a_value_of_a_part_that_may_be_left_out(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = fail(tmp_path, capsys, "fit", "--config", DEBUG, *words)
    assert failure.status in (1, 2)
    assert len(failure.errors) == 1
    assert said in failure.errors[0]
    assert len(failure.errors[0]) < 280
    assert not {"Union", "NoneType", "Given value", "Namespace"} & set(failure.errors[0].replace("(", " ").split())
