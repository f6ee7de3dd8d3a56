"""What tests of the page of sampling points share."""

from dataclasses import replace

import pytest

from segdcn.pictures.offset_page import MODULATION_STEPS, OFFSET_STEPS


@pytest.fixture(scope="session")
def as_packed():
    """Round sampling fields as the page does when it packs them."""
    return lambda fields: [
        replace(
            field,
            offset=(field.offset.double() * OFFSET_STEPS).round() / OFFSET_STEPS,
            modulation=(field.modulation.double() * MODULATION_STEPS).round() / MODULATION_STEPS,
        )
        for field in fields
    ]
