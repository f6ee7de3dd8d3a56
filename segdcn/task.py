"""What happens to a batch: forward, loss, metrics, optimizer step."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from segdcn import losses, optim
from segdcn.errors import UserValueError
from segdcn.fingerprint import fingerprint
from segdcn.inference import Inference
from segdcn.metrics import Evaluation, WeightedMean
from segdcn.models import build_deeplab
from segdcn.run import HASH, network_weights
from segdcn.task_settings import check_settings

# Where a checkpoint keeps the weights that were being trained, if `state_dict` holds averaged ones.
TRAINED_WEIGHTS = "current_model_state"


class SegmentationTask(LightningModule):
    """Train and measure a DeepLab network.

    All arguments are plain numbers, strings and lists and are saved with the weights, so
    `SegmentationTask.load_from_checkpoint(path)` rebuilds the network with
    `weights_only=True`, without a YAML and without a download.

    Logged: `train/loss` (all that is minimised), `train/aux_loss` and `lr/<group>` per step; `val/loss`, `val/mIoU`,
    `val/pixel_accuracy` and `val/IoU/<class>` over the whole validation set, and the same
    under `test/`. A class in neither labels nor predictions has no IoU: it is not logged and not
    part of the mean. With `eval_detail` also `val/boundary_mIoU`, `val/mIoU_<size>_objects` and
    `val/calibration_error` (`segdcn.metrics`).

    Args:
        num_classes: N, from the data.
        class_names: N names, from the data.
        palette: N colours [r, g, b] in 0..255, from the data; pictures are drawn with it.
        mean: Channel means the data was normalised with, in 0..1; kept for prediction.
        std: Channel standard deviations, likewise.
        architecture: `deeplab` is the paper's 1x1 head; the others add ASPP, and a decoder.
        encoder: Name of an encoder of segmentation_models_pytorch, such as resnet50.
        encoder_weights: `imagenet` downloads weights from a hub; a file of weights from torchvision, timm,
            mmsegmentation or `segdcn convert` is read (a name with an ending); null starts from random ones.
        output_stride: Input pixels per pixel of the last feature map: 8 or 16; 32 too for `deeplab`.
        deform_layers: How many of the encoder's last 3x3 convolutions are deformable; 0 is
            the plain network, 3 the paper's choice.
        modulated: Learn a weight per sampling point too (version 2); false is version 1.
        offset_groups: Channel groups with offsets of their own; 1 is the paper's.
        dilation: Dilation of the last stage's 3x3 convolutions in place of what the output
            stride asks for (the paper's table 3); null leaves it.
        gradual_dilation: Begin a dilated stage with the dilation of the stage before it, as torchvision, timm and
            mmsegmentation do; false dilates all of it, as segmentation_models_pytorch does.
        loss: Weight of each part of the training loss: cross_entropy, ohem, focal, dice, lovasz,
            boundary (`segdcn.losses`); null is cross_entropy alone, which `val/loss` always is.
        class_weights: N numbers: how much a pixel counts in `cross_entropy`, by its class; null is 1
            for all; `balanced` has `fit` compute them from the training labels (median frequency
            balancing, `segdcn.data.class_weights`), and the checkpoint keeps the numbers.
        label_smoothing: Share of each label that `cross_entropy` spreads over all classes.
        aux_weight: Weight of the same loss on an auxiliary head at the encoder's third stage, which
            is there in training only; 0 is none, 0.4 is usual.
        optimizer: `sgd` or `adamw`.
        lr: Learning rate of the head after warm-up.
        lr_batch: Images per optimizer step that `lr` was chosen for. With another number `fit` says
            what `lr` would be; it changes nothing. null: not known.
        momentum: Momentum of SGD, first beta of AdamW.
        weight_decay: Decay of all but biases and normalisation.
        encoder_lr_scale: Factor on the encoder's rate; below 1 keeps pretrained features.
        offset_lr_scale: Factor on the offset convolutions' rate.
        offset_warmup_steps: Optimizer steps before offsets begin to learn; until then their
            rate is 0 and every layer reads where a plain convolution reads.
        warmup_steps: Optimizer steps of linear warm-up.
        poly_power: Exponent of the poly schedule; 0 keeps the rate constant.
        min_lr: Where the schedule ends, in units of `lr`; the other groups end at the same share
            of their rates.
        ema_decay: Decay per optimizer step of a moving average of the weights, which validation
            and checkpoints then use (`segdcn.callbacks.averaging`); null is none.
        compile: Compile the network with torch.compile; the first steps take minutes.
        channels_last: Keep feature maps with channels innermost, which is what the
            operators read fastest; changes no result beyond rounding.
        eval_window: Evaluate in windows of this size: a number or [height, width] in pixels, multiples
            of `output_stride`; null shows the network the whole image. Windows bound the memory,
            and keep to sizes that were trained on.
        eval_overlap: Share of a window that its neighbours cover too, 0 to below 1; more is smoother
            and slower.
        eval_scales: Evaluate the image at these scales and average the probabilities; null is [1.0].
        eval_flip: Average with the mirror image too.
        eval_sums: Where windows and views are summed up: on the `device` of the network, or on the
            `cpu`, for images whose logits do not fit into a GPU.
        eval_detail: Measure boundary IoU, IoU by size and calibration too: `outside_fit` in validate
            and test, `always` in fit's validations as well, or `never`.
    """

    def __init__(
        self,
        num_classes: int,
        class_names: list[str] | None = None,
        palette: list[list[int]] | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        architecture: Literal["deeplab", "deeplabv3", "deeplabv3plus"] = "deeplabv3plus",
        encoder: str = "resnet50",
        encoder_weights: str | None = None,
        output_stride: int = 16,
        deform_layers: int = 3,
        modulated: bool = True,
        offset_groups: int = 1,
        dilation: int | None = None,
        gradual_dilation: bool = False,
        loss: dict[str, float] | None = None,
        class_weights: list[float] | Literal["balanced"] | None = None,
        label_smoothing: float = 0.0,
        aux_weight: float = 0.0,
        optimizer: optim.OptimizerName = "sgd",
        lr: float = 0.01,
        lr_batch: int | None = None,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        encoder_lr_scale: float = 1.0,
        offset_lr_scale: float = 0.1,
        offset_warmup_steps: int = 0,
        warmup_steps: int = 0,
        poly_power: float = 0.9,
        min_lr: float = 0.0,
        ema_decay: float | None = None,
        compile: bool = False,
        channels_last: bool = True,
        eval_window: int | list[int] | None = None,
        eval_overlap: float = 1 / 3,
        eval_scales: list[float] | None = None,
        eval_flip: bool = False,
        eval_sums: Literal["device", "cpu"] = "device",
        eval_detail: Literal["outside_fit", "always", "never"] = "outside_fit",
    ) -> None:
        super().__init__()
        # logger=False: the command line logs the whole resolved configuration instead.
        self.save_hyperparameters(logger=False)
        check_settings(self.hparams)
        self.class_names = class_names or [f"class {index}" for index in range(num_classes)]
        # Ones stand in for what is to be computed, so that `loss` is checked now.
        self.loss = self._weighted_loss([1.0] * num_classes if class_weights == "balanced" else class_weights)

        self.network = build_deeplab(
            architecture=architecture,
            encoder=encoder,
            encoder_weights=encoder_weights,
            output_stride=output_stride,
            deform_layers=deform_layers,
            modulated=modulated,
            offset_groups=offset_groups,
            num_classes=num_classes,
            dilation=dilation,
            gradual_dilation=gradual_dilation,
            auxiliary_head=aux_weight > 0,
        )
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.network.to(memory_format=self.memory_format)
        self.inference = Inference.of_settings(self.hparams, self.network.size_divisor)
        self.evaluation = Evaluation(num_classes)
        self.eval_loss = WeightedMean()

    def forward(self, image: Tensor) -> Tensor:
        """Compute logits (B, N, H, W) of normalised images (B, 3, H, W)."""
        return self._logits(image)[0]

    def _logits(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute logits and, in training, those of the auxiliary head, if there is one."""
        logits = self.network(image.contiguous(memory_format=self.memory_format))
        return logits if isinstance(logits, tuple) else (logits, None)

    # Training

    def setup(self, stage: str) -> None:
        """Compile in place, which leaves the names in the state dict as they are."""
        if self.hparams["compile"]:
            self.network.compile()
        if stage == "fit" and self.hparams["class_weights"] == "balanced":
            raise UserValueError("class_weights is 'balanced', but nobody has computed them: call set_class_weights")

    def set_class_weights(self, weights: Sequence[float]) -> None:
        """Let a pixel count by its class in `cross_entropy`; checkpoints keep the numbers."""
        self.loss = self._weighted_loss(weights)
        self.hparams["class_weights"] = list(weights)

    def _weighted_loss(self, class_weights: Sequence[float] | None) -> losses.WeightedLoss:
        num_classes = self.hparams["num_classes"]
        if class_weights is not None and len(class_weights) != num_classes:
            raise UserValueError(f"{len(class_weights)} class_weights for {num_classes} classes; give one for each")
        weights = {"cross_entropy": 1.0} if self.hparams["loss"] is None else self.hparams["loss"]
        return losses.WeightedLoss(weights, class_weights, self.hparams["label_smoothing"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Build the optimizer; the rates are set before each step by `on_train_batch_start`."""
        groups = optim.parameter_groups(
            self.network,
            lr=self.hparams["lr"],
            weight_decay=self.hparams["weight_decay"],
            encoder_lr_scale=self.hparams["encoder_lr_scale"],
            offset_lr_scale=self.hparams["offset_lr_scale"],
        )
        return optim.build_optimizer(self.hparams["optimizer"], groups, self.hparams["momentum"])

    def on_train_start(self) -> None:
        """Fix the length of the schedule, and let today's settings win over a checkpoint's.

        Resuming restores the optimizer's groups with the rates and decays of the stopped
        run; a `--model.lr` given now would change nothing.
        """
        total_steps = self.trainer.estimated_stepping_batches
        if math.isinf(total_steps):
            raise UserValueError("the schedule needs an end: set trainer.max_epochs or trainer.max_steps")
        self.total_steps = int(total_steps)

        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        fresh = self.configure_optimizers()
        for restored, wanted in zip(optimizer.param_groups, fresh.param_groups, strict=True):
            restored.update({key: value for key, value in wanted.items() if key != "params"})

    def on_train_batch_start(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Set the rates of this step: a function of the step alone, so resuming is exact."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        step = self.global_step
        floor = self.hparams["min_lr"] / self.hparams["lr"] if self.hparams["min_lr"] else 0.0
        factor = optim.rate_factor(
            step, self.total_steps, self.hparams["warmup_steps"], self.hparams["poly_power"], floor
        )
        rates = optim.set_rates(optimizer, factor, offsets_learn=step >= self.hparams["offset_warmup_steps"])
        self.log_dict({f"lr/{place}": rate for place, rate in rates.items()}, batch_size=1)

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        logits, auxiliary = self._logits(batch["image"])
        loss = self.loss(logits, batch["labels"])
        if auxiliary is not None:
            auxiliary_loss = self.loss(auxiliary, batch["labels"])
            self.log("train/aux_loss", auxiliary_loss, batch_size=len(batch["image"]))
            loss = loss + self.hparams["aux_weight"] * auxiliary_loss
        self.log("train/loss", loss, batch_size=len(batch["image"]))
        return loss

    # Evaluation: the same for validation and test

    def on_validation_epoch_start(self) -> None:  # noqa: D102
        self._start_evaluation()

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Measure a batch and return its predictions (B, H, W), for callbacks that keep them."""
        return self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:  # noqa: D102
        self._finish_evaluation("val")

    def on_test_epoch_start(self) -> None:  # noqa: D102
        self._start_evaluation()

    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Measure a batch and return its predictions (B, H, W), for callbacks that keep them."""
        return self._evaluate(batch)

    def on_test_epoch_end(self) -> None:  # noqa: D102
        self._finish_evaluation("test")

    def _start_evaluation(self) -> None:
        asked = self.hparams["eval_detail"]
        fitting = self.trainer.state.fn == TrainerFn.FITTING
        self.evaluation.in_detail = asked == "always" or (asked == "outside_fit" and not fitting)
        self.evaluation.reset()
        self.eval_loss.reset()

    def _evaluate(self, batch: Mapping[str, Any]) -> Tensor:
        image, labels, instances = batch["image"], batch["labels"], batch.get("instances")
        if len(sizes := set(map(tuple, batch.get("size", ())))) == 1:
            # Images of one size are seen as they are, not with what data.size_divisor added: as `Predictor` sees them.
            height, width = sizes.pop()
            image, labels = image[:, :, :height, :width], labels[:, :height, :width]
            instances = None if instances is None else instances[:, :height, :width]
        logits = self.inference(self, image)  # (B, N, H, W), on the CPU with eval_sums: cpu
        labels = labels.to(logits.device)
        prediction = logits.max(1).indices  # on a CPU several times as fast as argmax
        self.evaluation.update(prediction, labels, logits, batch.get("size"), instances)
        self.eval_loss.update(losses.cross_entropy(logits, labels), (labels != losses.IGNORE).sum())
        return prediction

    def _finish_evaluation(self, split: str) -> None:
        self.evaluation.sync()
        self.eval_loss.sync()
        measured = {"loss": self.eval_loss.compute(), **self.evaluation.scalars()}
        for name, iou in zip(self.class_names, self.evaluation.confusion.iou(), strict=True):
            measured[f"IoU/{name}"] = iou
        # What is not defined is not logged, but for what is always looked for.
        wanted = [name for name, value in measured.items() if name in ("loss", "mIoU") or not value.isnan()]
        # sync_dist: every process has the same sums already; their mean is that value.
        self.log_dict({f"{split}/{name}": measured[name].float() for name in wanted}, sync_dist=True)

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep a rebuild from fetching weights that the checkpoint replaces anyway, and the weights' hash."""
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY]["encoder_weights"] = None
        # A ResNet-50 takes 0.1 s, a third of what writing it takes; nothing else tells that weights were changed.
        weights = network_weights(checkpoint["state_dict"])
        if all(type(weight) is Tensor for weight in weights.values()):  # not where processes hold parts of them
            checkpoint[HASH] = fingerprint(weights)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on training with another optimizer than the checkpoint's.

        Training goes on with the weights that were being trained, also where it no longer
        averages them; the checkpoint holds those beside the averaged ones.
        """
        if self._trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            return
        if TRAINED_WEIGHTS in checkpoint and self.hparams["ema_decay"] is None:
            checkpoint["state_dict"] = checkpoint[TRAINED_WEIGHTS]
        wanted = self.hparams["optimizer"]
        # Converted checkpoints name none: no optimizer has worked on them yet.
        saved = checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY].get("optimizer", wanted)
        if saved != wanted:
            raise UserValueError(
                f"model.optimizer is {wanted}, but the checkpoint holds the state of {saved}: a run can only go on "
                "with its own optimizer"
            )
