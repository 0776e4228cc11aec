from .panels import Tile, compose, save_panel
from .views import ModalityView, view_from_image, views_from_inputs, views_from_stack
from .visualizer import XModalVisualizer, default_palette

__all__ = [
    'ModalityView',
    'Tile',
    'XModalVisualizer',
    'compose',
    'default_palette',
    'save_panel',
    'view_from_image',
    'views_from_inputs',
    'views_from_stack',
]
