// The tiled kernels one by one, for tests and benchmarks.
#pragma once

#include <nanobind/nanobind.h>

namespace qwell {

void bind_tiles(nanobind::module_& m);

}  // namespace qwell
