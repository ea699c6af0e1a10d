"""T5, UL2 and ByT5 as text encoders (Movie Gen uses UL2 and ByT5 beside CLIP); needs the extra `t5`.

Letters: B batch, L text tokens, E embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lingen.text.digests import weights_digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, T5EncoderModel

OWN_MODELS = {"lingen-byt5-tiny": {"vocab_size": 384, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2}}
BATCH = 64


class T5Text:
    """The encoder half of a T5 model; attributes as in lingen.text.encoders.TextEncoder.

    Args:
        model: the encoder.
        tokenizer: the model's.
        name: of the encoder.
        max_tokens: tokens after which captions are cut.
        device: where it runs.
    """

    def __init__(
        self,
        model: T5EncoderModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        max_tokens: int,
        device: torch.device,
    ):
        self._model = model.eval().requires_grad_(False).to(device)
        self._tokenizer = tokenizer
        self._device = device
        self.name = name
        self.dim: int = model.config.d_model
        self.context_length = max_tokens
        self.digest = weights_digest(model, {"max_tokens": max_tokens, "tokenizer": type(tokenizer).__name__})

    @torch.inference_mode()
    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        """Embed captions: one float32 CPU tensor (L_i, E) per caption, end token included, cut at max_tokens."""
        out: list[Tensor] = []
        for start in range(0, len(captions), BATCH):
            ids = self._tokenizer(
                list(captions[start : start + BATCH]),
                return_tensors="pt",
                padding=True,
                truncation=True,
                max_length=self.context_length,
            ).to(self._device)
            tokens_BLE = self._model(input_ids=ids.input_ids, attention_mask=ids.attention_mask).last_hidden_state
            lengths = ids.attention_mask.sum(dim=1).tolist()
            out += [tokens[:n].float().cpu().clone() for tokens, n in zip(tokens_BLE, lengths)]
        return out


def build_t5(model: str, seed: int, max_tokens: int, device: torch.device) -> T5Text:
    """Build a T5 text encoder.

    Args:
        model: a local folder, a hub name (which is downloaded), or lingen-byt5-tiny (bytes, random weights, 64 wide).
        seed: of lingen-byt5-tiny's random weights.
        max_tokens: tokens after which captions are cut.
        device: where it runs.

    Raises:
        ValueError: transformers is missing, or the model cannot be loaded.
    """
    try:
        from transformers import AutoTokenizer, ByT5Tokenizer, T5Config, T5EncoderModel
    except ImportError:
        raise ValueError("--text: family=t5 needs the transformers package; pip install 'lingen[t5]'") from None
    if model in OWN_MODELS:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = T5EncoderModel(T5Config(**OWN_MODELS[model]))
        return T5Text(encoder, ByT5Tokenizer(), f"t5/{model}, random weights, seed {seed}", max_tokens, device)
    try:
        encoder = T5EncoderModel.from_pretrained(model, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"--text: {model!r} cannot be loaded as a T5 encoder ({reason})") from error
    return T5Text(encoder, tokenizer, f"t5/{model}", max_tokens, device)
