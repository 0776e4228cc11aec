"""Testing while the network adapts to the test images.

Papers: ``'norm'``: Schneider et al., NeurIPS 2020, https://arxiv.org/abs/2006.16971
(code https://github.com/bethgelab/robustness, not opened), and Nado et al., 2020,
https://arxiv.org/abs/2006.10963; ``'tent'``: Wang et al., "Tent: Fully Test-Time
Adaptation by Entropy Minimization", ICLR 2021, https://arxiv.org/abs/2006.10726 (code
https://github.com/DequanWang/tent, MIT). Clean room, nothing copied.

Differences: everything but the norms stays in eval mode (Tent's code puts dropout in
training mode, too); what one call of ``encode_decode`` sees is the test batch, so with
slide inference it is a window; layers with one value per channel keep their running
statistics; the weights are put back at the end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.evaluator import Evaluator
from mmengine.model import BaseTTAModel
from mmengine.runner import TestLoop
from mmengine.runner.loops import _parse_losses
from torch import nn
from torch.utils.data import DataLoader

from mmseg_xmodal.models.layers.test_time_norms import (
    NORM_KINDS,
    batch_statistics,
    find_norms,
    keep_unfolded,
)
from mmseg_xmodal.registry import LOOPS

from ..unwrap import unwrapped
from .tent import Tent

_WHERE = "test_cfg=dict(type='mmseg_xmodal.TestTimeAdaptLoop', ...)"
ADAM = dict(type='Adam', lr=1e-3, betas=(0.9, 0.999), weight_decay=0.0)


@LOOPS.register_module()
class TestTimeAdaptLoop(TestLoop):
    """Adapts the network to the test images, without their labels, while it tests.

    Set it in the config, and stock ``test.py`` runs it::

        test_cfg = dict(type='mmseg_xmodal.TestTimeAdaptLoop', method='tent')

    ``'norm'``: batch norms use the statistics of the test batch. ``'tent'``: they do,
    and after each batch scale and shift of the norms take a step down the entropy of
    its prediction. Of a :class:`DomainAdaptiveSegmentor` the predicting network adapts.
    With several processes each adapts to its own images. Results depend on the batch
    size (``test_dataloader.batch_size``) and, online, on the order of the images.
    Afterwards the model is as before.

    Args:
        runner: The runner.
        dataloader: Test loader, or the dict to build it from.
        evaluator: Evaluator, or the dict or list to build it from.
        fp16: Test under autocast. Defaults to False.
        method: ``'norm'`` or ``'tent'``.
        prior: Weight of the source statistics, as a number N of images: they count
            N / (N + n) in a batch of n. 0 = the test batch alone (Nado et al., Tent);
            more is steadier with few images (Schneider et al.).
        norms: Which norms Tent trains: ``'batch'``, ``'layer'``, ``'group'``,
            ``'instance'``. ``'norm'`` concerns batch norms only.
        optimizer: Of Tent. Defaults to Adam with a learning rate of 0.001.
        steps: Of Tent, for each batch.
        episodic: Whether Tent starts from the weights of the checkpoint in each batch
            of images; else it goes on from batch to batch (online).
        predict: ``'before'``: the prediction is that of the forward pass whose entropy
            made the last step, as published: a batch is predicted with the weights
            that those before it left. ``'after'``: one more pass after the last step.

    Raises:
        ValueError: If an argument cannot be used, or the network lacks such norms.
        TypeError: If the model averages views (``--tta``), or Tent cannot reach its
            logits.
        FloatingPointError: If the entropy is not finite.
    """

    __test__ = False  # no test class, in spite of its name

    def __init__(
        self,
        runner: Any,
        dataloader: DataLoader | dict,
        evaluator: Evaluator | dict | list,
        fp16: bool = False,
        method: str = 'tent',
        prior: float = 0.0,
        norms: Sequence[str] = ('batch',),
        optimizer: Mapping[str, Any] | None = None,
        steps: int = 1,
        episodic: bool = False,
        predict: str = 'before',
    ) -> None:
        super().__init__(runner, dataloader, evaluator, fp16)
        _check_arguments(method, prior, norms, steps, predict)
        model = unwrapped(runner.model)
        if isinstance(model, BaseTTAModel):
            raise TypeError(
                f'{_WHERE} and {type(runner.model).__name__}: every view of an image '
                'would adapt the network on its own, and their mean would be that of '
                'different networks. Test without --tta.'
            )
        self.network: Any = getattr(model, 'predicting', model)
        self.method, self.prior = method, prior
        self.episodic = episodic
        self._batch_norms = _norms(self.network, ['batch'])
        if prior:
            _check_running(self._batch_norms)
        self._tent: Tent | None = None
        if method == 'norm':
            _check_found(self.network, self._batch_norms, ['batch'], method)
            return
        trained = _norms(self.network, norms)
        params = [p for norm in trained for p in norm.parameters(recurse=False)]
        _check_found(self.network, params, norms, method)
        if 'batch' not in norms:
            # Their statistics belong to their training.
            self._batch_norms = []
        again = predict == 'after'
        self._tent = Tent(self.network, params, optimizer or ADAM, steps, again, fp16)

    def run(self) -> dict[str, float]:
        """Test, and put the model back afterwards."""
        tent = self._tent
        self.runner.call_hook('before_test')
        self.runner.call_hook('before_test_epoch')
        self.runner.model.eval()
        self.runner.logger.info(
            f'TestTimeAdaptLoop: {self.method} on {type(self.network).__name__}: '
            f'{len(self._batch_norms)} batch norms with the statistics of the test '
            f'batch (prior {self.prior:g} images), '
            f'{0 if tent is None else tent.size} trained numbers.'
        )
        self.test_loss.clear()
        # Between the hooks: they may exchange the weights.
        with contextlib.ExitStack() as stack:
            stack.enter_context(batch_statistics(self._batch_norms, self.prior))
            if tent is not None:
                stack.enter_context(tent.active())
            for index, batch in enumerate(self.dataloader):
                self.run_iter(index, batch)
        metrics = self.evaluator.evaluate(len(self.dataloader.dataset))
        if self.test_loss:
            metrics.update(_parse_losses(self.test_loss, 'test'))
        if tent is not None and tent.entropies:
            first, last = tent.entropies[0], tent.entropies[-1]
            self.runner.logger.info(
                f'TestTimeAdaptLoop: entropy of the first step {float(first):.4f}, of '
                f'the last {float(last):.4f} nats.'
            )
        self.runner.call_hook('after_test_epoch', metrics=metrics)
        self.runner.call_hook('after_test')
        return metrics

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Adapt to a batch, and test it."""
        keep_unfolded(self._batch_norms)
        if self._tent is not None:
            if self.episodic:
                self._tent.reset()
            self._tent.called = False
        super().run_iter(idx, data_batch)
        if self._tent is not None and not self._tent.called:
            raise TypeError(
                f'{_WHERE}: {type(self.network).__name__} predicts without its '
                "encode_decode, so Tent does not see its logits. Use method='norm', or "
                "model.test_cfg=dict(mode='slide', ...) where it uses it then."
            )


def _check_arguments(
    method: str, prior: float, norms: Sequence[str], steps: int, predict: str
) -> None:
    if method not in ('norm', 'tent') or predict not in ('before', 'after'):
        raise ValueError(
            f'{_WHERE} has method={method!r} and predict={predict!r}, expected '
            "'norm' or 'tent', and 'before' or 'after'."
        )
    if prior < 0 or steps < 1:
        raise ValueError(
            f'{_WHERE} has prior={prior} and steps={steps}, expected a number of '
            'images, 0 or more, and 1 step or more.'
        )
    if isinstance(norms, str) or not norms or not set(norms) <= set(NORM_KINDS):
        raise ValueError(
            f'{_WHERE} has norms={norms!r}, expected a list of some of '
            f'{list(NORM_KINDS)}.'
        )


def _norms(network: nn.Module, kinds: Sequence[str]) -> list[Any]:
    """Norms of the network but for auxiliary heads, which do not predict."""
    found = find_norms(network, kinds).items()
    return [norm for name, norm in found if not name.startswith('auxiliary_head')]


def _check_found(
    network: nn.Module, found: Sequence[Any], kinds: Sequence[str], method: str
) -> None:
    """Raise if there is nothing to adapt, and say what there is."""
    if found:
        return
    counts = {kind: len(_norms(network, [kind])) for kind in NORM_KINDS}
    advice = (
        "Only batch norms have statistics of a batch: method='tent' with norms=["
        "'layer'] trains other norms."
        if method == 'norm'
        else 'Set norms to a kind that it has, with scale and shift.'
    )
    raise ValueError(
        f'{_WHERE}, method={method!r}, needs norms of the kinds {list(kinds)} in '
        f'{type(network).__name__}, which has {counts}. {advice}'
    )


def _check_running(norms: Sequence[Any]) -> None:
    lacking = sum(norm.running_mean is None for norm in norms)
    if lacking:
        raise ValueError(
            f'{_WHERE} has a prior above 0, but {lacking} batch norms keep no running '
            'statistics to mix with. Set prior=0.'
        )
