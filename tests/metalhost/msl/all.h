// Everything a kernel text sees.
#pragma once
#include "types.h"
#include "traits.h"
#include "vector.h"
#include "math.h"
#include "integer.h"
#include "simd.h"
#include "atomic.h"
#include "matrix.h"
#include "mlx.h"
#include "qualities.h"
