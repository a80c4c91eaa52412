"""What a user asks to be generated: prompts, files of prompts, labels; and what is refused before anything is made."""

from pathlib import Path

import pytest
import torch
from helpers.runs import tiny_module
from helpers.captioned import Hearing

from diffusion_lightning.conditioning import ClassEmbedding, TextTransformer
from diffusion_lightning.guidance import ClassifierGuidance
from diffusion_lightning.core.conditions import to_text
from diffusion_lightning.commands.prompts import build_condition, heard, read_prompts
from diffusion_lightning.degradations import GaussianNoise


def test_prompts_come_before_those_of_the_file_and_labels_stand_beside_them(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("\ufeffa red apple\n\n  un café ☕ \n", "utf-8")
    found = build_condition(["a cat face"], str(file), [7, 7, 1])
    assert found is not None
    assert found["caption"] == ["a cat face", "a red apple", "un café ☕"]
    assert torch.as_tensor(found["label"]).tolist() == [7, 7, 1]


def test_one_label_or_prompt_serves_all() -> None:
    assert build_condition(["a", "b"], None, [3]) is not None
    assert torch.as_tensor((build_condition(["a", "b"], None, [3]) or {})["label"]).tolist() == [3, 3]
    assert (build_condition(["a"], None, [3, 4]) or {})["caption"] == ["a", "a"]
    assert build_condition(None, None, None) is None


def test_other_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="3 prompts and 2 labels: give one of each an image, or only one for all"):
        build_condition(["a", "b", "c"], None, [1, 2])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no such file; give a text file"),
        (b"\n \n", "holds no prompt: write one a line"),
        (b"caf\xe9", "byte 3 is not UTF-8; save the file as UTF-8"),
    ],
    ids=["missing", "empty", "Latin-1"],
)
def test_a_file_that_is_no_list_of_prompts_is_named(content: bytes | None, said: str, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=said) as error:
        read_prompts(str(file))
    assert str(file) in str(error.value)


def test_what_was_told_is_written_as_the_caption_else_the_class() -> None:
    assert to_text(None) is None
    assert to_text({"caption": ["a cat", ""], "label": torch.tensor([1, 0])}) == ["a cat", ""]
    assert to_text({"label": torch.tensor([1, 0, -1])}, ["nought", "one"]) == ["one", "nought", ""]
    assert to_text({"label": torch.tensor([7])}) == ["7"]


def test_a_model_that_hears_nothing_refuses_words_and_labels() -> None:
    with pytest.raises(ValueError, match="--prompt: the model was trained without captions; use one with a cond"):
        heard({"caption": ["a cat"]}, tiny_module())
    heard(None, tiny_module())


def test_a_model_that_hears_labels_refuses_words_and_says_so() -> None:
    module = tiny_module(denoiser=Hearing(4), conditioner=ClassEmbedding(3, 4))
    with pytest.raises(ValueError, match="without captions, it hears a label"):
        heard({"caption": ["a cat"]}, module)
    with pytest.raises(ValueError, match="label 3 is no class: choose from 0 to 2"):
        heard({"label": torch.tensor([0, 3])}, module)
    heard({"label": torch.tensor([0, 2, -1])}, module)
    heard(None, module)


def test_a_model_that_was_always_told_a_label_needs_one() -> None:
    module = tiny_module(denoiser=Hearing(4), conditioner=ClassEmbedding(3, 4, dropout=0))
    with pytest.raises(ValueError, match="trained with dropout=0, so its network needs a condition"):
        heard(None, module)


def test_labels_serve_a_guiding_classifier_where_the_network_hears_none() -> None:
    heard({"label": torch.tensor([1])}, tiny_module(degradation=GaussianNoise(), guidance=ClassifierGuidance("c")))


def test_words_that_the_model_does_not_know_are_told() -> None:
    conditioner = TextTransformer(dim=8, heads=2, length=3)
    conditioner.fit({"caption": ["red apple", "green pear", ""]})
    module = tiny_module(denoiser=Hearing(8), conditioner=conditioner)
    with pytest.raises(ValueError, match="the model knows no word of 'полёт 飞行'"):
        heard({"caption": ["полёт 飞行"]}, module)
    with pytest.warns(UserWarning, match="'a red pear': the model does not know a"):
        heard({"caption": ["a red pear"]}, module)
    with pytest.warns(UserWarning, match="has 4 words: the model hears the first 3"):
        heard({"caption": ["red green red apple"]}, module)
    heard({"caption": ["", "Green APPLE!"]}, module)


def test_a_further_stage_hears_what_it_can_and_is_told_nothing_of_the_rest() -> None:
    labels = {"label": torch.tensor([1, 2])}
    assert heard(labels, tiny_module(), first=False) is None
    conditioner = TextTransformer(units="bytes", dim=8, heads=2)
    module = tiny_module(denoiser=Hearing(8), conditioner=conditioner)
    assert heard(labels, module, first=False) is None
    assert heard(labels | {"caption": ["a", "b"]}, module, first=False) == {"caption": ["a", "b"]}


def test_a_part_that_is_not_given_counts_as_untold() -> None:
    conditioner, guidance = TextTransformer(units="bytes", dim=8, heads=2), ClassifierGuidance("any.ckpt")
    module = tiny_module(degradation=GaussianNoise(), denoiser=Hearing(8), conditioner=conditioner, guidance=guidance)
    told = heard({"label": torch.tensor([1, 2])}, module)
    assert told is not None
    assert told["caption"] == ["", ""]
    assert torch.as_tensor(told["label"]).tolist() == [1, 2]
