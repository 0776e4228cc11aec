from .backbones import *  # noqa: F403
from .data_preprocessor import *  # noqa: F403
from .decode_heads import *  # noqa: F403
from .fusion import *  # noqa: F403
from .losses import *  # noqa: F403
from .necks import *  # noqa: F403
from .segmentors import *  # noqa: F403
