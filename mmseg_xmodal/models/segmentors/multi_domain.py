"""One shared extractor, a head for each domain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mmseg.models.segmentors import EncoderDecoder
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS

from ..layers.batch_pick import pick
from ..layers.domain_norm import domain_norms, give_domain_norms, norms_of
from ..layers.pixel_weights import needs_no_weights
from ..layers.rank_presence import check_presence
from ..layers.task_batch import connected_zero
from . import multi_domain_build as parts
from . import multi_domain_route as route
from .multi_domain_state import spread_plain_heads


@MODELS.register_module()
class MultiDomainEncoderDecoder(EncoderDecoder):
    """An ``EncoderDecoder`` with a decode head for each domain.

    Backbone and neck are shared; every domain has a head with classes of its own, and
    all are trained together on labelled images. A sample's domain is its metainfo
    ``domain``, else the name that ``MultiSourceDataset`` gave its data set, see
    :class:`DomainRouter`. Image head and video head are one case of it.

    Losses are named ``<domain>.<name>``. Each is the mean over the domain's own images,
    so domains count alike whatever their share of the batch. A domain without images in
    a batch gives a zero that is connected to all that it has for itself, so DDP needs
    no ``find_unused_parameters``.

    ``decode_head``, ``auxiliary_head``, ``num_classes``, ``out_channels`` and
    ``align_corners`` are those of the predicting domain. They are no modules of the
    model, so keys stand once. A checkpoint of a plain ``EncoderDecoder`` loads into all
    heads and norms where shapes fit; ``one_domain_state_dict`` gives one back.

    As ``student`` of a ``DomainAdaptiveSegmentor``: labelled images go to the head of
    their domain, everything on images without labels (predictions, pseudo-labelled,
    mixed and masked images) to that of ``predict_domain``. Terms that mix images or
    compare features read the labels of the source as classes of this head: give them
    sources with its class list only, with ``domain_norm`` one source domain.

    Args:
        backbone: As in ``EncoderDecoder``.
        decode_heads: Domain to the config of its head, any segmentation head.
        auxiliary_heads: Domain to the config of an auxiliary head, or a list of them.
        domains: Name of a data set to its domain, where they differ.
        predict_domain: Domain whose head predicts, whatever the sample; ``'sample'``:
            that of the sample, in batches of any composition. Defaults to the first.
        domain_norm: Whether each domain has batch norms of its own in backbone and
            neck. Both then run once for each domain in a batch. With SyncBatchNorm all
            ranks need the same domains in a batch.
        domain_weights: Domain to the factor of its losses, 0 or more. Defaults to 1.
        kwargs: Of ``EncoderDecoder``, such as ``neck`` and ``test_cfg``.

    Shape:
        - inputs: (B, C, H, W)

    Raises:
        ValueError: If an argument cannot be used.
    """

    decode_heads: Any
    auxiliary_heads: Any

    def __init__(
        self,
        backbone: dict,
        decode_heads: Mapping[str, dict],
        auxiliary_heads: Mapping[str, Any] | None = None,
        domains: Mapping[str, str] | None = None,
        predict_domain: str | None = None,
        domain_norm: bool = False,
        domain_weights: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        parts.check_config(
            decode_heads, auxiliary_heads, predict_domain, domain_weights, kwargs
        )
        router = route.DomainRouter(list(decode_heads), domains)
        kwargs.update(decode_head=decode_heads, auxiliary_head=auxiliary_heads or {})
        super().__init__(backbone=backbone, **kwargs)
        self.router, self.domain_norm = router, domain_norm
        self.domain_weights = {
            d: (domain_weights or {}).get(d, 1.0) for d in decode_heads
        }
        if predict_domain is not None:
            self.predict_domain = predict_domain
        if domain_norm:
            give_domain_norms(self._shared(), list(decode_heads))
            for part in self._shared():
                # For those who call the backbone alone, a copy of it included.
                for norm in domain_norms(part):
                    norm.active = self.active_domain

    # What EncoderDecoder's constructor calls

    def _init_decode_head(self, decode_head: Mapping[str, dict]) -> None:
        self.decode_heads = parts.build_heads('decode_heads', decode_head)
        self.predict_domain = next(iter(decode_head))
        self._running: str | None = None

    def _init_auxiliary_head(self, auxiliary_head: Mapping[str, Any]) -> None:
        self.auxiliary_heads = parts.build_heads('auxiliary_heads', auxiliary_head)

    # The domain at work

    @property
    def active_domain(self) -> str:
        """Domain whose head ``decode_head`` is; with ``'sample'`` the first one."""
        if self._running is not None:
            return self._running
        if self.predict_domain == parts.SAMPLE:
            return next(iter(self.decode_heads))
        return self.predict_domain

    @contextmanager
    def running(self, domain: str) -> Iterator[None]:
        """Inside of the block, a domain is the active one."""
        before, self._running = self._running, domain
        try:
            yield
        finally:
            self._running = before

    @property
    def decode_head(self) -> Any:
        """Head of the active domain."""
        return self.decode_heads[self.active_domain]

    @property
    def auxiliary_head(self) -> Any:
        """Auxiliary head or heads of the active domain, or None."""
        if self.active_domain not in self.auxiliary_heads:
            return None
        return self.auxiliary_heads[self.active_domain]

    @property
    def num_classes(self) -> int:
        """Of the active domain."""
        return self.decode_head.num_classes

    @property
    def out_channels(self) -> int:
        """Of the active domain."""
        return self.decode_head.out_channels

    @property
    def align_corners(self) -> bool:
        """Of the active domain."""
        return self.decode_head.align_corners

    def _shared(self) -> list[nn.Module]:
        return [self.backbone, *([self.neck] if self.with_neck else [])]

    def _own_modules(self) -> dict[str, list[nn.Module]]:
        """What each domain has for itself: heads and norms."""
        norms = [n for part in self._shared() for n in domain_norms(part)]
        own: dict[str, list[nn.Module]] = {}
        for domain, head in self.decode_heads.items():
            own[domain] = [head, *(n.domain_norms[domain] for n in norms)]
            if domain in self.auxiliary_heads:
                own[domain].append(self.auxiliary_heads[domain])
        return own

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any
    ) -> None:
        spread_plain_heads(state_dict, prefix, self.state_dict)
        super()._load_from_state_dict(state_dict, prefix, *args)

    # Training

    def extract_feat(self, inputs: Tensor) -> Any:
        """Features, normalised as the active domain does."""
        if not self.domain_norm:
            return super().extract_feat(inputs)
        with norms_of(self._shared(), self.active_domain):
            return super().extract_feat(inputs)

    def loss(
        self, inputs: Tensor, data_samples: Sequence[SegDataSample]
    ) -> dict[str, Any]:
        """Losses of all domains, by ``'<domain>.<name>'``.

        Raises:
            ValueError: If the domain of a sample is unknown, its labels do not fit the
                head, or ranks with SyncBatchNorm have different domains.
        """
        metas = [sample.metainfo for sample in data_samples]
        places = self.router.places(metas, self.active_domain)
        route.check_labels(data_samples, places, self.decode_heads)
        modules = self._own_modules()
        check_presence(modules, places, inputs.device, 'Samples of the domains')
        maps = self._extract(inputs, places)
        losses: dict[str, Any] = {}
        for domain, own in modules.items():
            if domain in places:
                samples = [data_samples[i] for i in places[domain]]
                terms = self._terms(domain, maps[domain], samples)
            else:
                needs_no_weights(own)
                # To the features too: perhaps this head alone reads one of the maps.
                zero = connected_zero(*own, *route.tensors_in(maps))
                terms = dict(loss_absent=zero)
            losses.update({f'{domain}.{name}': value for name, value in terms.items()})
        return losses

    def _extract(self, inputs: Tensor, places: route.Places) -> dict[str, Any]:
        """Features of each domain's images."""
        if not self.domain_norm:
            shared = self.extract_feat(inputs)
            return {d: pick(shared, own) for d, own in places.items()}
        maps = {}
        for domain, own in places.items():
            with self.running(domain):
                maps[domain] = self.extract_feat(pick(inputs, own))
        return maps

    def _terms(
        self, domain: str, feats: Any, samples: list[SegDataSample]
    ) -> dict[str, Any]:
        """Losses of one domain's heads on its own images."""
        with self.running(domain):
            terms = dict(self._decode_head_forward_train(feats, samples))
            if self.with_auxiliary_head:
                terms.update(self._auxiliary_head_forward_train(feats, samples))
        return route.scaled(terms, self.domain_weights[domain])

    # Prediction

    def predict(
        self, inputs: Tensor, data_samples: list[SegDataSample] | None = None
    ) -> list[SegDataSample]:
        """Predict by the head of ``predict_domain``, or that of each sample's domain.

        Args:
            inputs: The batch.
            data_samples: Receive the predictions; None = new ones, of the active
                domain.

        Raises:
            ValueError: If the domain of a sample is needed and unknown.
        """
        if self.predict_domain != parts.SAMPLE or data_samples is None:
            return super().predict(inputs, data_samples)
        metas = [sample.metainfo for sample in data_samples]
        predicted = list(data_samples)
        for domain, own in self.router.places(metas, self.active_domain).items():
            with self.running(domain):
                samples = [data_samples[i] for i in own]
                done = super().predict(pick(inputs, own), samples)
            for place, sample in zip(own, done, strict=True):
                predicted[place] = sample
        return predicted

    def encode_decode(
        self, inputs: Tensor, batch_img_metas: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """Logits of one domain, at the size of the input.

        Raises:
            ValueError: If ``predict_domain='sample'`` and the metainfo names several
                domains.
        """
        with self.running(self._one_domain(batch_img_metas)):
            return super().encode_decode(inputs, batch_img_metas)

    def _forward(
        self, inputs: Tensor, data_samples: Sequence[SegDataSample] | None = None
    ) -> Any:
        with self.running(self._one_domain([s.metainfo for s in data_samples or ()])):
            return super()._forward(inputs, data_samples)

    def _one_domain(self, metas: Sequence[Mapping[str, Any]]) -> str:
        """Domain that a call for one head is about."""
        if self._running is not None or self.predict_domain != parts.SAMPLE:
            return self.active_domain
        found = list(self.router.places(metas, self.active_domain))
        if len(found) > 1:
            raise ValueError(
                f'One call is about the domains {found}, expected one, since their '
                'heads have maps of their own. Call predict, which splits the batch, '
                'or name one as predict_domain.'
            )
        return found[0] if found else self.active_domain
