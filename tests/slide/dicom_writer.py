"""Small DICOM slides whose every pixel is known."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, VLWholeSlideMicroscopyImageStorage, generate_uid


def write_dicom(path: Path, pixels: np.ndarray, tile: int, *, left_out: Sequence[int], downsample: int = 1) -> None:
    """Write a pyramid level of a sparse DICOM slide."""
    whole = Dataset()
    whole.file_meta = FileMetaDataset()
    whole.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    whole.file_meta.MediaStorageSOPClassUID = whole.SOPClassUID = VLWholeSlideMicroscopyImageStorage
    whole.file_meta.MediaStorageSOPInstanceUID = whole.SOPInstanceUID = generate_uid()
    whole.StudyInstanceUID, whole.SeriesInstanceUID, whole.Modality = "1.2", "1.2.3", "SM"
    whole.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE" if downsample == 1 else "RESAMPLED"]
    whole.Rows = whole.Columns = tile
    whole.TotalPixelMatrixRows, whole.TotalPixelMatrixColumns = pixels.shape[:2]
    whole.SamplesPerPixel, whole.PhotometricInterpretation, whole.PlanarConfiguration = 3, "RGB", 0
    whole.BitsAllocated, whole.BitsStored, whole.HighBit, whole.PixelRepresentation = 8, 8, 7, 0
    whole.DimensionOrganizationType = "TILED_SPARSE"
    measures, shared = Dataset(), Dataset()
    measures.PixelSpacing = [0.0005 * downsample] * 2
    shared.PixelMeasuresSequence = [measures]
    whole.SharedFunctionalGroupsSequence = [shared]
    frames, groups = [], []
    columns = pixels.shape[1] // tile
    for index in sorted(set(range(columns * pixels.shape[0] // tile)) - set(left_out)):
        row, column = divmod(index, columns)
        position, group = Dataset(), Dataset()
        position.ColumnPositionInTotalImagePixelMatrix = column * tile + 1
        position.RowPositionInTotalImagePixelMatrix = row * tile + 1
        group.PlanePositionSlideSequence = [position]
        groups.append(group)
        frames.append(pixels[row * tile : (row + 1) * tile, column * tile : (column + 1) * tile].tobytes())
    whole.PerFrameFunctionalGroupsSequence, whole.NumberOfFrames = groups, len(groups)
    whole.add_new("PixelData", "OB", b"".join(frames))
    whole.save_as(path, enforce_file_format=True)
