"""Metrics of every task."""

from .depth import DepthMapMetric
from .detection import DetectionMetric
from .domain_iou import DomainIoUMetric
from .edges import EdgeMetric
from .folder_iou import FolderIoUMetric
from .image_labels import ImageLabelMetric, MultiLabelMetric
from .normals import NormalMetric
from .ontology_iou import OntologyIoUMetric
from .pseudo_label_writer import PseudoLabelWriter
from .task_iou import TaskIoUMetric

__all__ = [
    'DepthMapMetric',
    'DetectionMetric',
    'DomainIoUMetric',
    'EdgeMetric',
    'FolderIoUMetric',
    'ImageLabelMetric',
    'MultiLabelMetric',
    'NormalMetric',
    'OntologyIoUMetric',
    'PseudoLabelWriter',
    'TaskIoUMetric',
]
