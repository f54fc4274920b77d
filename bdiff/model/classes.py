"""A class-conditional network with its class fixed, which is an unconditional network."""

from diffusers.models.unets.unet_2d import UNet2DModel


def of_class(net: UNet2DModel, label: int) -> UNet2DModel:
    """Return an unconditional UNet2DModel whose predictions are those of `net` for the class `label`.

    A class-conditional UNet adds an embedding of the class to that of the timestep, which ends with a linear layer
    (diffusers' `UNet2DModel.forward`); so the class's embedding becomes a part of that layer's bias.
    """
    config = {name: value for name, value in net.config.items() if not name.startswith("_")}
    weights = dict(net.state_dict())
    embedding = weights.pop("class_embedding.weight")[label]
    weights["time_embedding.linear_2.bias"] = weights["time_embedding.linear_2.bias"] + embedding
    fixed = UNet2DModel(**config | {"num_class_embeds": None})
    fixed.load_state_dict(weights)
    return fixed
