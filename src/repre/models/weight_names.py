"""Key maps of start weights: renames the parameters of transformers' and Meta's checkpoints to those that timm reads."""

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from repre.models.weight_parts import NO_ENCODERS

WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Names that torch's compiler, sharding and activation checkpointing put inside the names of parameters."""
TRANSFORMERS_ANCHOR = re.compile(r"^(.*?)embeddings\.patch_embeddings\.(?:projection\.)?weight$")
"""The parameter that every vision encoder of transformers has; what stands before it is the prefix of that encoder."""
Rules = tuple[tuple[str, str], ...]
TRANSFORMERS_TOP: Rules = (
    (r"^embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.(?:projection\.)?(weight|bias)$", r"patch_embed.proj.\1"),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^(?:encoder\.|model\.)?layers?\.(\d+)\.(?!blocks\.|downsample\.)", r"blocks.\1."),  # flat: layer.0
    (r"^encoder\.layers\.(\d+)\.(?=blocks\.|downsample\.)", r"layers.\1."),  # Swin: encoder.layers.0.blocks.0
    (r"^layernorm\.", "norm."),
)
"""Names of transformers outside of the blocks, and the start of the names inside."""
TRANSFORMERS_BLOCK: Rules = (
    (r"\.attention\.(?:attention|self)\.query\.", ".attn.q."),
    (r"\.attention\.(?:attention|self)\.key\.", ".attn.k."),
    (r"\.attention\.(?:attention|self)\.value\.", ".attn.v."),
    (r"\.attention\.([qkv])_proj\.", r".attn.\1."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.attention\.(?:self|relative_position_bias)\.(relative_\w+|logit_scale)$", r".attn.\1"),
    (r"\.attention\.self\.continuous_position_bias_mlp\.", ".attn.cpb_mlp."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.(?:intermediate\.dense|mlp\.weights_in)\.", ".mlp.fc1."),
    (r"\.(?:output\.dense|mlp\.weights_out|mlp\.down_proj)\.", ".mlp.fc2."),
)
"""Names of transformers inside a block. The older names are those in files, the newer ones those of models in memory."""
CHUNK = re.compile(r"((?:^|\.)blocks)\.\d+\.(\d+\.)")
"""DINOv2's and DINOv3's blocks when their training sharded them in chunks: blocks.CHUNK.BLOCK, BLOCK counted over all."""
BLOCK = re.compile(r"^(?:blocks|layers|stages)\.\d+\.")


def rename(names: Collection[str], model_keys: Collection[str]) -> tuple[str, dict[str, str]]:
    """Renames parameters to timm's or Meta's names; queries, keys and values stay apart.

    Args:
        names: of all tensors in a file.
        model_keys: names of the timm model's parameters.

    Returns:
        The layout in words, and the new name of every old one. Names of an unknown layout stay.
    """
    renamed = {name: WRAPPERS.sub("", name) for name in names}
    prefixes = sorted(
        {match[1] for name in renamed.values() if (match := TRANSFORMERS_ANCHOR.match(name))}, key=len, reverse=True
    )
    if prefixes and not any(TRANSFORMERS_ANCHOR.match(key) for key in model_keys):
        return "transformers' names", {old: _from_transformers(new, prefixes) for old, new in renamed.items()}
    encoders = [name for name in renamed.values() if not NO_ENCODERS.search(name)]
    if any(CHUNK.search(name) for name in encoders) and not any(CHUNK.search(key) for key in model_keys):
        return "Meta's names, blocks in chunks", {old: CHUNK.sub(r"\1.\2", new) for old, new in renamed.items()}
    return "", renamed


def _from_transformers(name: str, prefixes: list[str]) -> str:
    for prefix in prefixes:
        if name.startswith(prefix):
            inner = name.removeprefix(prefix)
            for pattern, new in TRANSFORMERS_TOP:
                inner = re.sub(pattern, new, inner)
            if BLOCK.match(inner):
                for pattern, new in TRANSFORMERS_BLOCK:
                    inner = re.sub(pattern, new, inner)
            return prefix + inner
    return name


def is_block(name: str) -> bool:
    """Whether a parameter with timm's or Meta's name belongs to a block."""
    return BLOCK.match(name) is not None


def convert(state: Mapping[str, Tensor], model_keys: Collection[str]) -> dict[str, Tensor]:
    """Joins and splits tensors as the timm model holds them, where names alone do not do.

    Joins queries, keys and values, and the two inputs of a gated MLP. Splits biases of queries and values, and leaves out
    biases that the model lacks where they are 0. Names register tokens and layer scales so that timm's own conversion of
    DINOv2 and DINOv3 recognizes them. Tensors whose shapes do not allow it stay as they are, and do not fit the model.
    """
    state = _join_attention(dict(state), model_keys)
    state = _join_gated_mlp(state, model_keys)
    state = _fit_biases(state, model_keys)
    if "blocks.0.ls1.gamma" in model_keys:  # DeiT III and BEiT call layer scales gamma_1
        state = {re.sub(r"^(blocks\.\d+\.)gamma_([12])$", r"\1ls\2.gamma", name): v for name, v in state.items()}
    if "register_tokens" in state:
        if "pos_embed" in state:  # DINOv2: timm takes the mask token, which a file may lack, as its sign
            state.setdefault("mask_token", torch.zeros(()))
        else:
            state["storage_tokens"] = state.pop("register_tokens")
    return state


def _join_attention(state: dict[str, Tensor], model_keys: Collection[str]) -> dict[str, Tensor]:
    """attn.q, attn.k, attn.v -> attn.qkv, unless the model has them apart; a bias of the keys that is missing is 0."""
    queries = [name for name in state if re.search(r"\.attn\.q\.(weight|bias)$", name) and name not in model_keys]
    for query in queries:
        stem, kind = query.rsplit("q.", 1)
        q, k, v = (state.get(f"{stem}{part}.{kind}") for part in "qkv")
        if q is None or v is None:
            continue
        if k is None and kind == "bias":
            k = torch.zeros_like(q)
        if k is None or not q.shape == k.shape == v.shape:
            continue
        for part in "qkv":
            state.pop(f"{stem}{part}.{kind}", None)
        state[f"{stem}qkv.{kind}"] = torch.cat([q, k, v])
    return state


def _join_gated_mlp(state: dict[str, Tensor], model_keys: Collection[str]) -> dict[str, Tensor]:
    """mlp.gate_proj and mlp.up_proj -> mlp.fc1_g and mlp.fc1_x, or both in mlp.fc1; without a gate up_proj is mlp.fc1."""
    for up in [name for name in state if ".mlp.up_proj." in name]:
        gate = up.replace("up_proj", "gate_proj")
        if gate not in state:
            state[up.replace("up_proj", "fc1")] = state.pop(up)
        elif up.replace("up_proj", "fc1_x") in model_keys:
            state[up.replace("up_proj", "fc1_x")] = state.pop(up)
            state[up.replace("up_proj", "fc1_g")] = state.pop(gate)
        elif state[gate].shape == state[up].shape:
            state[up.replace("up_proj", "fc1")] = torch.cat([state.pop(gate), state.pop(up)])
    return state


def _fit_biases(state: dict[str, Tensor], model_keys: Collection[str]) -> dict[str, Tensor]:
    """attn.qkv.bias -> attn.q_bias and attn.v_bias in models without a bias of the keys; nothing where all are 0.

    DINOv3's files have a mask of the biases that count (bias_mask), and published biases that are all 0.
    """
    for name in [name for name in state if name.endswith("attn.qkv.bias")]:
        mask = state.pop(f"{name}_mask", None)
        if mask is not None and mask.shape == state[name].shape:
            state[name] = torch.where(mask.nan_to_num() == 0, 0, state[name])
        if name in model_keys or len(state[name]) % 3:
            continue
        stem = name.removesuffix("qkv.bias")
        q, k, v = state[name].chunk(3)
        if f"{stem}q_bias" in model_keys and not k.any():
            state[f"{stem}q_bias"], state[f"{stem}v_bias"] = q, v
            del state[name]
        elif not state[name].any():
            del state[name]
    return state
