// Everything that a CUDA text sees. Address spaces are one on CUDA, so there is nothing to tell apart:
// what is checked is what happens when the text runs.
#pragma once
#include "types.h"
#include "warp.h"
#include "math.h"
#include "mlx.h"
