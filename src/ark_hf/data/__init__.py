from .dicom import UnreadableImageError, read_radiograph

__all__ = ["UnreadableImageError", "read_radiograph"]
