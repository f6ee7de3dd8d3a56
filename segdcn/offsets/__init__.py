"""Where deformable layers read, in numbers: positions, effective dilation, health."""

from segdcn.offsets.dilation import EffectiveDilation, effective_dilation
from segdcn.offsets.fields import SamplingField, record, recording, sampling_field
from segdcn.offsets.frames import Frame, frames
from segdcn.offsets.health import Health, health
from segdcn.offsets.objects import Region, regions
from segdcn.offsets.points import Points, output_pixel, pixel_centre, trace

__all__ = [
    "EffectiveDilation",
    "Frame",
    "Health",
    "Points",
    "Region",
    "SamplingField",
    "effective_dilation",
    "frames",
    "health",
    "output_pixel",
    "pixel_centre",
    "record",
    "recording",
    "regions",
    "sampling_field",
    "trace",
]
