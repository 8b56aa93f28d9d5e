"""What a run trains, as one object: model, optimizer, gradient scaler. Saved in one checkpoint and restored from it."""

from typing import Any

import torch

from repre.config import RunConfig
from repre.errors import UserError
from repre.models.decoder import branch_cost, step_flops
from repre.models.encoder import Encoder
from repre.models.needs import fit_masks
from repre.models.repre import RePre, build_model
from repre.training.checkpoint import load_latest, save_checkpoint
from repre.training.pretraining_groups import build_pretraining_optimizer
from repre.training.run_folder import RunFolder
from repre.training.sharded_checkpoint import save_sharded_checkpoint
from repre.training.start_from import Start
from repre.training.start_weights import describe_start
from repre.training.step import validate_micro_batch
from repre.training.transfer_state import load_optimizer, parameter_names, transfer_model, transfer_optimizer
from repre.utils.device import peak_flops, pick_precision, return_freed_memory
from repre.utils.dist import is_main_process, world_size
from repre.utils.fsdp import copy_state, distribute_like, move_rest, shard, without_weights
from repre.utils.image_size import as_option

COMPILE_FLOPS = 3e16
"""FLOPs of a training from which compiling pays: it saves about 30 % of the time (docs/performance.md), and takes a minute;
an H100 computes 3e16 in about three minutes."""


class RunState:
    """Model, optimizer and scaler of a run, initialized from the config's seed.

    Args:
        images: images that the run will show in all its epochs, for `compute.compile auto`; None: too few to compile.

    Attributes:
        start_weights: what became of the start weights, in words; None at random init.
        views: to render, with masks that fit the encoder.
        model: split over the processes with `runtime.shard`.
        precision: of encoder and decoder.
        branch_cost: what the reconstruction branch adds to the encoder.
        step_flops: FLOPs of a training step for each image, forward and backward.
        compiled: whether steps are compiled.

    Raises:
        UserError: the config's parts do not fit together.
    """

    def __init__(self, config: RunConfig, device: torch.device, *, images: int | None = None) -> None:
        self.device = device
        self.sharded = config.runtime.shard and world_size() > 1
        if self.sharded:
            return_freed_memory()
        self.precision = pick_precision(config.compute.precision, device)
        self.model: RePre = build_model(
            encoder=config.encoder_at_size,
            framework=config.framework,
            decoder=config.decoder,
            reconstruction=config.reconstruction,
            seed=config.seed,
            mask_token=config.mask_token,
        ).train()
        self.start_weights = describe_start(self.model.encoder.load_report, config)
        self.views = fit_masks(config.rendered_views, self.model.encoder, self.model.framework.needs)
        if config.views.n_local:
            try:
                self.model.encoder.check_size(*config.views.local_shape)
            except UserError as error:
                raise UserError(f"views.local_size {as_option(config.views.local_size)}: {error}") from error
        given = config.compute.micro_batch
        validate_micro_batch(self.model.encoder, config.reconstruction, micro_batch=0 if given == "auto" else given)
        self.branch_cost = branch_cost(self.model.encoder, self.model.decoder, size=config.views.shape)
        self.step_flops = step_flops(self.branch_cost, config.views, teachers=self._count_teachers())
        self._replica: RePre | None = None
        if self.sharded:
            self._shard(config)
        else:
            self.model.to(device)
        self.optimizer = build_pretraining_optimizer(config.optim, self.model)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision is torch.float16)
        if device.type == "cuda" and self.model.decoder is not None:
            self.model.decoder.to(memory_format=torch.channels_last)
        self.compiled = self._compiling_pays(config, images)
        if self.compiled:
            self.model.compile_step()

    def peak_images_per_s(self) -> float | None:
        """Images per second if all devices only multiplied matrices, at their peak; None if that is not known."""
        peak = peak_flops(self.device, self.precision)
        return None if peak is None else world_size() * peak / self.step_flops

    def _count_teachers(self) -> int:
        return sum(isinstance(module, Encoder) for module in self.model.framework.modules())

    def _compiling_pays(self, config: RunConfig, images: int | None) -> bool:
        if config.compute.compile != "auto":
            return config.compute.compile == "on"
        if self.device.type != "cuda" or self.sharded or images is None:
            return False
        return images * self.step_flops > COMPILE_FLOPS

    def _shard(self, config: RunConfig) -> None:
        """Splits the encoders over the processes; the main one keeps the modules of a full copy, without its weights."""
        if config.compute.compile == "on" or self.precision is torch.float16:
            raise UserError(
                "runtime.shard works with neither compute.compile on nor compute.precision fp16; remove one of them"
            )
        if is_main_process():
            self._replica = without_weights(self.model)
        for module in [m for m in self.model.modules() if isinstance(m, Encoder)]:
            shard(module, device=self.device)
        move_rest(self.model, device=self.device)

    def full_model(self) -> RePre:
        """The model with all its weights, on the device of the main process; a collective call."""
        if not self.sharded:
            return self.model
        if self._replica is not None:
            self._replica.to_empty(device=self.device)
        copy_state(self.model, self._replica)
        return self._replica or self.model

    def release_full_model(self) -> None:
        """Frees the memory of a full model that `full_model` made."""
        if self._replica is not None:
            self._replica.to("meta")

    def save(self, folder: RunFolder, progress: dict[str, Any]) -> None:
        """Writes the last checkpoint and keeps the one before it; a collective call that writes on the main process.

        Args:
            progress: plain values that are saved beside the weights.
        """
        tensors = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "optimizer_names": parameter_names(self.model, self.optimizer),
            "scaler": self.scaler.state_dict(),
            "exported": self.model.exported_part,
        }
        if self.sharded:
            save_sharded_checkpoint(folder.last, {**progress, **tensors}, first=folder.sync, backup=folder.previous)
        elif is_main_process():
            folder.sync()
            save_checkpoint(folder.last, {**progress, **tensors}, backup=folder.previous)

    def take_over(self, start: Start) -> list[str]:
        """Loads the state of another run; returns the names of the parameters that were resampled to another image size.

        Raises:
            UserError: it belongs to another model.
        """
        saved = start.state
        resampled = transfer_model(self.model, saved["model"], config=start.config, source=start.source)
        transfer_optimizer(self.model, self.optimizer, saved["optimizer"], saved.get("optimizer_names"), new=resampled)
        if self.scaler.is_enabled() and saved["scaler"]:
            self.scaler.load_state_dict(saved["scaler"])
        return resampled

    def restore(self, folder: RunFolder) -> tuple[dict[str, Any], str | None] | None:
        """Loads the last readable checkpoint; returns what was saved beside the weights, and a warning if there is one.

        None without a checkpoint.

        Raises:
            UserError: the checkpoint is damaged or belongs to another model.
        """
        found = load_latest(folder.last, folder.previous, device="cpu" if self.sharded else self.device)
        if found is None:
            return None
        state, warning = found
        try:
            own = self.model.state_dict()
            self.model.load_state_dict({n: distribute_like(v, own.get(n, v)) for n, v in state.pop("model").items()})
            load_optimizer(self.optimizer, state.pop("optimizer"))
            self.scaler.load_state_dict(state.pop("scaler"))
        except (RuntimeError, ValueError, KeyError) as error:
            reason = "; ".join(line.strip() for line in str(error).splitlines()[:3])
            raise UserError(
                f"{folder.last} is a checkpoint of another model ({reason[:300]}); choose another --out"
            ) from error
        return state, warning
