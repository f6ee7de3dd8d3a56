// The kernels of RoI pooling on the CPU, one index after the other, for tests (see deform_conv_emulated.cpp).
#include "emulate.h"
//
#include "roi_pool_device.h"
