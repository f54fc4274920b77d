"""Checks of UNet settings before torch is imported; diffusers' own come only after the data have been read."""

from typing import Any

from bdiff.common.spelling import nearest

#: the arguments of UNet2DModel, without those for class labels
KNOWN = (
    *("sample_size", "in_channels", "out_channels", "center_input_sample", "time_embedding_type", "time_embedding_dim"),
    *("freq_shift", "flip_sin_to_cos", "down_block_types", "mid_block_type", "up_block_types", "block_out_channels"),
    *("layers_per_block", "mid_block_scale_factor", "downsample_padding", "downsample_type", "upsample_type"),
    *("dropout", "act_fn", "attention_head_dim", "norm_num_groups", "attn_norm_num_groups", "norm_eps"),
    *("resnet_time_scale_shift", "add_attention", "num_train_timesteps"),
)
#: lists with one entry per resolution
PER_BLOCK = ("down_block_types", "up_block_types")


def problems(unet: dict[str, Any]) -> list[str]:
    """Return contradictions in the settings of a diffusers UNet2DModel."""
    if new := [name for name in unet if name not in KNOWN and name != "_target_"]:
        return [f"model.unet.{name} {nearest(name, KNOWN)}" for name in new]
    channels = unet["block_out_channels"]
    if not channels or not all(type(width) is int and width > 0 for width in channels):
        return [f"model.unet.block_out_channels={channels} must be whole numbers from 1 up, one for each resolution"]
    lines = []
    for name in PER_BLOCK:
        if len(unet[name]) != len(channels):
            lines.append(
                f"model.unet.{name} names {len(unet[name])} blocks, "
                f"and model.unet.block_out_channels={channels} has {len(channels)}: both need the same number"
            )
    for name, least in (("layers_per_block", 1), ("norm_num_groups", 1)):
        if type(unet.get(name, least)) is not int or unet.get(name, least) < least:
            return [*lines, f"model.unet.{name}={unet[name]} must be a whole number from {least} up"]
    if not 0 <= unet.get("dropout", 0.0) < 1:
        lines.append(f"model.unet.dropout={unet['dropout']} must be at least 0 and below 1")
    groups = unet.get("norm_num_groups", 32)
    if uneven := [width for width in channels if width % groups]:
        lines.append(
            f"model.unet.norm_num_groups={groups} does not divide {uneven[0]} of model.unet.block_out_channels"
        )
    head = unet.get("attention_head_dim")
    attending = [width for width, kind in zip(channels, unet["down_block_types"], strict=False) if "Attn" in kind]
    if head is not None and (wrong := [width for width in [*attending, channels[-1]] if head < 1 or width % head]):
        lines.append(
            f"model.unet.attention_head_dim={head} does not divide {wrong[0]} of model.unet.block_out_channels"
        )
    return lines
