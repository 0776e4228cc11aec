"""Metrics of every task."""

from .depth import DepthMapMetric
from .detection import DetectionMetric
from .edges import EdgeMetric
from .image_labels import ImageLabelMetric, MultiLabelMetric
from .normals import NormalMetric
from .task_iou import TaskIoUMetric

__all__ = [
    'DepthMapMetric',
    'DetectionMetric',
    'EdgeMetric',
    'ImageLabelMetric',
    'MultiLabelMetric',
    'NormalMetric',
    'TaskIoUMetric',
]
