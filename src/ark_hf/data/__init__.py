from .radiograph import read_radiograph as read_radiograph
