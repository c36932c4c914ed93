// Kernel tables by name.
#pragma once

#include <string>

#include "kernels.h"

namespace qwell {

const Kernels& kernels_named(const std::string& name);  // std::invalid_argument if not available

}  // namespace qwell
