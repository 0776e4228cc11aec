"""Metrics of every task."""

from .depth import DepthMetric
from .detection import DetectionMetric
from .edges import EdgeMetric
from .image_labels import ImageLabelMetric, MultiLabelMetric
from .normals import NormalMetric
from .task_iou import TaskIoUMetric

__all__ = [
    'DepthMetric',
    'DetectionMetric',
    'EdgeMetric',
    'ImageLabelMetric',
    'MultiLabelMetric',
    'NormalMetric',
    'TaskIoUMetric',
]
