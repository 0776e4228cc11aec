"""One shared backbone, any set of tasks."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.model import ModuleDict
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS as MMSEG_MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS

from ..interactions.base import Exchanged
from ..layers.batch_pick import pick
from ..layers.gradient_gate import GradientGate
from ..layers.norm_statistics import read_statistics
from ..layers.rank_presence import check_presence
from ..layers.task_batch import TaskBatch, connected_zero
from . import multitask_losses as parts
from .multitask_build import build_task_head, choose_tasks
from .multitask_predict import add_maps, image_metas, slide

Feats = tuple[Tensor, ...]


@MODELS.register_module()
class MultiTaskEncoderDecoder(EncoderDecoder):
    """An ``EncoderDecoder`` with further heads on the same features.

    ``decode_head`` is the segmentation head, so that every stock tool works.

    A sample trains the tasks that it is labelled for: those whose field of truth it
    has, unless ``task_valid`` in its metainfo says False. A task without labels in a
    batch gives a zero that is connected to its head, and all shared maps are connected
    whoever reads them, so DDP needs no ``find_unused_parameters``. DDP averages the
    gradients over ranks, such zeros included.

    Losses are named ``<task>.<name>``. The scalar that the optimiser's wrapper gets has
    an attribute ``multitask`` (:class:`TaskBatch`) for rules on the tasks' gradients.

    Maps of all dense tasks slide together over windows; whole-image tasks (boxes, image
    labels) see the whole image once.

    A bad batch is one where a task's loss is NaN or infinite, or where no task has
    labels. All ranks decide alike. ``'skip'`` needs an optimiser wrapper that leaves
    the step out, such as ``mmseg_xmodal.SkippingOptimWrapper``; under any other the
    first backward pass raises. Running statistics of norms are then put back too.

    Args:
        backbone: As in ``EncoderDecoder``.
        decode_head: Segmentation head.
        task_heads: Task name to the config of its head: one of ours, a segmentation
            head of mmseg (its truth is ``gt_<name>``), or a dense head of mmdet.
        balancer: Config of a loss balancer, which gets ``tasks``; None = plain sum.
        interaction: Config of a task interaction between neck and heads, which gets
            ``tasks`` (dense task to channels); None = every head reads the neck.
        seg_task: Name of the segmentation task.
        tasks: Tasks that are trained and run; None = all. Other task heads are not
            built, another ``decode_head`` is frozen and not run.
        on_bad_loss: ``'raise'``, or ``'skip'`` the step with a warning.
        kwargs: Of ``EncoderDecoder``, such as ``neck``, ``auxiliary_head``.

    Shape:
        - inputs: (B, C, H, W)

    Raises:
        ValueError: If a name, ``tasks`` or ``on_bad_loss`` cannot be used.
    """

    def __init__(
        self,
        backbone: dict,
        decode_head: dict,
        task_heads: Mapping[str, dict],
        balancer: dict | None = None,
        interaction: dict | None = None,
        seg_task: str = 'seg',
        tasks: Sequence[str] | None = None,
        on_bad_loss: str = 'raise',
        **kwargs: Any,
    ) -> None:
        test_cfg = {'mode': 'whole', **(kwargs.get('test_cfg') or {})}
        kwargs['test_cfg'] = ConfigDict(test_cfg)
        super().__init__(backbone=backbone, decode_head=decode_head, **kwargs)
        if on_bad_loss not in ('raise', 'skip'):
            raise ValueError(
                f"on_bad_loss={on_bad_loss!r}, expected 'raise' or 'skip'. Change it "
                'in the model.'
            )
        self.seg_task, self.on_bad_loss = seg_task, on_bad_loss
        self.known_tasks = (seg_task, *task_heads)
        self.tasks = choose_tasks(self.known_tasks, tasks)
        chosen = {t: c for t, c in task_heads.items() if t in self.tasks}
        self.task_heads = ModuleDict(
            {task: build_task_head(task, cfg) for task, cfg in chosen.items()}
        )
        if seg_task not in self.tasks:
            for head in self._modules_of(seg_task):
                head.requires_grad_(False)
        dense = [t for t in self.tasks if t == seg_task or self.task_heads[t].dense]
        self.dense_channels = {t: self._head(t).out_channels for t in dense}
        self.whole_image_tasks = [t for t in self.tasks if t not in dense]
        self.interaction = self._build(interaction, tasks=dict(self.dense_channels))
        self.balancer = self._build(balancer, tasks=list(self.tasks))
        self._batch: TaskBatch | None = None

    @staticmethod
    def _build(cfg: dict | None, **injected: Any) -> Any:
        return None if cfg is None else MMSEG_MODELS.build(dict(cfg, **injected))

    def __getstate__(self) -> dict[str, Any]:
        # The graph of a step cannot be copied.
        return dict(self.__dict__, _batch=None)

    def _head(self, task: str) -> Any:
        return self.decode_head if task == self.seg_task else self.task_heads[task]

    def _modules_of(self, task: str) -> list[nn.Module]:
        """Whatever trains for this task alone."""
        auxiliary = task == self.seg_task and self.with_auxiliary_head
        return [self._head(task), *([self.auxiliary_head] if auxiliary else [])]

    def _shared_parameters(self) -> list[nn.Parameter]:
        shared = (self.backbone, getattr(self, 'neck', None), self.interaction)
        modules = [m for m in shared if m is not None]
        return [p for m in modules for p in m.parameters() if p.requires_grad]

    def _is_labelled(self, task: str, sample: SegDataSample) -> bool:
        if task == self.seg_task:
            has_truth = 'gt_sem_seg' in sample
        else:
            has_truth = self.task_heads[task].has_truth(sample)
        return has_truth and bool((sample.get('task_valid') or {}).get(task, True))

    def _interact(self, feats: Feats) -> Exchanged:
        """Pyramid of each dense task, and intermediate predictions."""
        return ({}, {}) if self.interaction is None else self.interaction(feats)

    # Training

    def loss(
        self, inputs: Tensor, data_samples: Sequence[SegDataSample]
    ) -> dict[str, Tensor]:
        """Loss terms of all tasks, by ``'<task>.<name>'``.

        Raises:
            ValueError: If ``task_valid`` of a sample names an unknown task, or a task
                with modules that wait for all ranks has labels on some only.
        """
        parts.check_task_valid(data_samples, self.known_tasks)
        labelled = self._labelled(data_samples, inputs.device)
        statistics = read_statistics(self) if self.on_bad_loss == 'skip' else []
        feats = tuple(self.extract_feat(inputs))
        # Copies in the graph: a map may follow from a larger one, and the gradient of a
        # task at the shared maps must not run from one to the other.
        feats = tuple(x.view_as(x) for x in feats)
        pyramids, initial = self._interact(feats)
        exchanged = (x for maps in (pyramids, initial) for x in maps.values())
        batch = TaskBatch(
            gates={task: GradientGate() for task in self.tasks},
            shared=feats,
            anchor=connected_zero(*feats, *itertools.chain(*exchanged)),
            paths=parts.sample_paths(data_samples),
            labelled=labelled,
            unlabelled=tuple(t for t in self.tasks if not labelled[t]),
            statistics=statistics,
        )
        losses: dict[str, Tensor] = {}
        for task, gate in batch.gates.items():
            plain = gate.all(feats)
            own = gate.all(pyramids[task]) if task in pyramids else plain
            first = gate.all(initial.get(task, ()))
            chosen = labelled[task]
            if chosen:
                picked = pick(own, chosen)
                terms = self._terms(
                    task,
                    picked,
                    picked if own is plain else pick(plain, chosen),
                    pick(first, chosen),
                    [data_samples[i] for i in chosen],
                )
            else:
                zero = connected_zero(*self._modules_of(task))
                terms = dict(loss_unlabelled=zero)
            losses.update({f'{task}.{name}': value for name, value in terms.items()})
        self._batch = batch
        return losses

    def _labelled(
        self, samples: Sequence[SegDataSample], device: torch.device
    ) -> dict[str, tuple[int, ...]]:
        """Places of the samples that are labelled for each task."""
        found = {
            task: tuple(i for i, s in enumerate(samples) if self._is_labelled(task, s))
            for task in self.tasks
        }
        here = [task for task, places in found.items() if places]
        modules = {task: self._modules_of(task) for task in self.tasks}
        check_presence(modules, here, device, 'Labels of the tasks')
        return found

    def _terms(
        self,
        task: str,
        own: Feats,
        plain: Feats,
        first: Feats,
        samples: Sequence[SegDataSample],
    ) -> dict[str, Tensor]:
        """Loss terms of one task on its labelled samples.

        Args:
            task: Name of the task.
            own: What its head reads.
            plain: What auxiliary heads read.
            first: Intermediate predictions of the task interaction.
            samples: The samples.
        """
        head = self._head(task)
        terms = dict(head.loss(own, samples, self.train_cfg))
        is_seg = task == self.seg_task
        for i, output in enumerate(first):
            loss_of = head.loss_by_feat if is_seg else head.loss_of
            for name, value in loss_of(output, samples).items():
                terms[f'{name}_init{i}'] = value
        if is_seg and self.with_auxiliary_head:
            # mmseg's names, 'aux.loss_ce': the first dot ends the task's name.
            auxiliary = self._auxiliary_head_forward_train(plain, samples)
            terms.update({n.replace('.', '_', 1): v for n, v in auxiliary.items()})
        return terms

    def parse_losses(
        self, losses: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Weigh and add the tasks.

        Returns:
            The scalar to minimise, with the attribute ``multitask``, and what is
            logged. In a skipped batch the scalar is a zero connected to all parameters,
            and terms that are not finite are not logged.

        Raises:
            ValueError: On a bad batch, unless ``on_bad_loss='skip'``.
            RuntimeError: If no ``loss`` came before.
        """
        batch, self._batch = self._batch, None
        if batch is None:
            raise RuntimeError(
                "parse_losses takes the losses of the last forward pass in mode 'loss' "
                'once: call the model again before it.'
            )
        batch.shared_parameters = self._shared_parameters()
        _, logged = super().parse_losses(losses)  # lists and maps to scalars
        del logged['loss']
        return parts.add_up(self, batch, logged)

    # Prediction

    def encode_decode(
        self, inputs: Tensor, batch_img_metas: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """Maps of all dense tasks, side by side in the order of ``dense_channels``.

        Shape:
            - output: (B, sum of ``dense_channels``, H, W)
        """
        feats = tuple(self.extract_feat(inputs))
        return torch.cat(list(self._decode(feats, batch_img_metas).values()), dim=1)

    def _decode(
        self, feats: Feats, metas: Sequence[Mapping[str, Any]]
    ) -> dict[str, Tensor]:
        pyramids, _ = self._interact(feats)
        own = {task: pyramids.get(task, feats) for task in self.dense_channels}
        return {
            t: self._head(t).predict(x, metas, self.test_cfg) for t, x in own.items()
        }

    def slide_inference(
        self, inputs: Tensor, batch_img_metas: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """As ``encode_decode``, averaged over the windows of ``test_cfg``.

        ``out_channels`` counts the segmentation alone, as stock tools read it.
        """
        channels = sum(self.dense_channels.values())
        crop, stride = self.test_cfg.crop_size, self.test_cfg.stride
        metas = batch_img_metas
        return slide(self.encode_decode, inputs, metas, channels, crop, stride)

    def predict(
        self, inputs: Tensor, data_samples: list[SegDataSample] | None = None
    ) -> list[SegDataSample]:
        """Predict all tasks, in the coordinates of the original images.

        Args:
            inputs: The batch.
            data_samples: Receive the predictions; None = new ones, and the images are
                taken as they are.
        """
        metas = image_metas(inputs, data_samples)
        whole = self.test_cfg.get('mode', 'whole') == 'whole'
        feats: Feats = ()
        maps: dict[str, Tensor] = {}
        if whole or self.whole_image_tasks:
            feats = tuple(self.extract_feat(inputs))
        if whole:
            maps = self._decode(feats, metas)
        elif self.dense_channels:
            output = self.inference(inputs, metas)
            widths = list(self.dense_channels.values())
            maps = dict(zip(self.dense_channels, output.split(widths, 1), strict=True))
        return self._into_samples(feats, maps, metas, data_samples)

    def _into_samples(
        self,
        feats: Feats,
        maps: dict[str, Tensor],
        metas: Sequence[Mapping[str, Any]],
        samples: list[SegDataSample] | None,
    ) -> list[SegDataSample]:
        if self.seg_task in maps:
            samples = self.postprocess_result(maps.pop(self.seg_task), samples)
        elif samples is None:
            samples = [SegDataSample() for _ in metas]
        for task, outputs in maps.items():
            add_maps(self.task_heads[task], outputs, metas, samples)
        for task in self.whole_image_tasks:
            fields = self.task_heads[task].predict(feats, metas, self.test_cfg)
            for own, sample in zip(fields, samples, strict=True):
                sample.set_data(own)
        return samples

    def _forward(
        self, inputs: Tensor, data_samples: Sequence[SegDataSample] | None = None
    ) -> dict[str, Any]:
        """Raw output of every head, by task."""
        feats = tuple(self.extract_feat(inputs))
        pyramids, _ = self._interact(feats)
        return {t: self._head(t)(pyramids.get(t, feats)) for t in self.tasks}
