from .image_files import UnreadableImageError
from .radiograph import read_radiograph

__all__ = ["UnreadableImageError", "read_radiograph"]
