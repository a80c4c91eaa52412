"""The condition of `generate`: prompts, files of prompts, labels; errors come before anything is generated."""

from pathlib import Path

import pytest
import torch
from helpers.captioned import ConditionalTiny
from helpers.runs import tiny_module

from diffusion_lightning.commands.prompts import build_condition, check_condition, read_prompts
from diffusion_lightning.conditioning import ClassEmbedding, TextTransformer
from diffusion_lightning.core.conditions import to_text
from diffusion_lightning.degradations import GaussianNoise
from diffusion_lightning.guidance import ClassifierGuidance


def test_prompts_come_before_those_of_the_file_beside_the_labels(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("\ufeffa red apple\n\n  un café ☕ \n", "utf-8")
    found = build_condition(["a cat face"], str(file), [7, 7, 1])
    assert found is not None
    assert found["caption"] == ["a cat face", "a red apple", "un café ☕"]
    assert torch.as_tensor(found["label"]).tolist() == [7, 7, 1]


def test_one_label_or_prompt_is_used_for_all_images() -> None:
    assert build_condition(["a", "b"], None, [3]) is not None
    assert torch.as_tensor((build_condition(["a", "b"], None, [3]) or {})["label"]).tolist() == [3, 3]
    assert (build_condition(["a"], None, [3, 4]) or {})["caption"] == ["a", "a"]
    assert build_condition(None, None, None) is None


def test_other_numbers_of_prompts_and_labels_are_rejected() -> None:
    with pytest.raises(ValueError, match="3 prompts and 2 labels: give one of each per image, or only one for all"):
        build_condition(["a", "b", "c"], None, [1, 2])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file; give a text file"),
        (b"\n \n", "has no prompt: write one per line"),
        (b"caf\xe9", "byte 3 is not UTF-8; save the file as UTF-8"),
    ],
    ids=["missing", "empty", "Latin-1"],
)
def test_an_unusable_file_of_prompts_is_named(content: bytes | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_prompts(str(file))
    assert str(file) in str(error.value)


def test_a_condition_as_text_is_the_caption_else_the_class() -> None:
    assert to_text(None) is None
    assert to_text({"caption": ["a cat", ""], "label": torch.tensor([1, 0])}) == ["a cat", ""]
    assert to_text({"label": torch.tensor([1, 0, -1])}, ["nought", "one"]) == ["one", "nought", ""]
    assert to_text({"label": torch.tensor([7])}) == ["7"]


def test_an_unconditional_model_rejects_prompts() -> None:
    with pytest.raises(ValueError, match="--prompt: the model was trained without captions; use a conditional model"):
        check_condition({"caption": ["a cat"]}, tiny_module())
    check_condition(None, tiny_module())


def test_a_model_of_labels_rejects_prompts_and_unknown_labels() -> None:
    module = tiny_module(denoiser=ConditionalTiny(4), conditioner=ClassEmbedding(3, 4))
    with pytest.raises(ValueError, match="without captions, it is conditioned on a label"):
        check_condition({"caption": ["a cat"]}, module)
    with pytest.raises(ValueError, match="label 3 is not a class: choose from 0 to 2"):
        check_condition({"label": torch.tensor([0, 3])}, module)
    check_condition({"label": torch.tensor([0, 2, -1])}, module)
    check_condition(None, module)


def test_a_model_trained_without_dropout_needs_a_label() -> None:
    module = tiny_module(denoiser=ConditionalTiny(4), conditioner=ClassEmbedding(3, 4, dropout=0))
    with pytest.raises(ValueError, match="trained with dropout=0, so its network needs a condition"):
        check_condition(None, module)


def test_labels_are_accepted_for_classifier_guidance_alone() -> None:
    check_condition(
        {"label": torch.tensor([1])}, tiny_module(degradation=GaussianNoise(), guidance=ClassifierGuidance("c"))
    )


def test_unknown_and_truncated_words_are_reported() -> None:
    conditioner = TextTransformer(dim=8, heads=2, max_length=3)
    conditioner.fit({"caption": ["red apple", "green pear", ""]})
    module = tiny_module(denoiser=ConditionalTiny(8), conditioner=conditioner)
    with pytest.raises(ValueError, match="the model knows no word of 'полёт 飞行'"):
        check_condition({"caption": ["полёт 飞行"]}, module)
    with pytest.warns(UserWarning, match="'a red pear': unknown words are ignored by the model: a"):
        check_condition({"caption": ["a red pear"]}, module)
    with pytest.warns(UserWarning, match="has 4 words and is truncated to 3"):
        check_condition({"caption": ["red green red apple"]}, module)
    check_condition({"caption": ["", "Green APPLE!"]}, module)


def test_an_upsampler_gets_the_entries_that_it_reads() -> None:
    labels = {"label": torch.tensor([1, 2])}
    assert check_condition(labels, tiny_module(), strict=False) is None
    conditioner = TextTransformer(tokenizer="bytes", dim=8, heads=2)
    module = tiny_module(denoiser=ConditionalTiny(8), conditioner=conditioner)
    assert check_condition(labels, module, strict=False) is None
    assert check_condition(labels | {"caption": ["a", "b"]}, module, strict=False) == {"caption": ["a", "b"]}


def test_a_missing_entry_becomes_the_null_condition() -> None:
    conditioner, guidance = TextTransformer(tokenizer="bytes", dim=8, heads=2), ClassifierGuidance("any.ckpt")
    module = tiny_module(
        degradation=GaussianNoise(), denoiser=ConditionalTiny(8), conditioner=conditioner, guidance=guidance
    )
    checked = check_condition({"label": torch.tensor([1, 2])}, module)
    assert checked is not None
    assert checked["caption"] == ["", ""]
    assert torch.as_tensor(checked["label"]).tolist() == [1, 2]
