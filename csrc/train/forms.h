// The training kernels by instruction set: one table of row functions and one product each.
#pragma once

#include <string>
#include <vector>

#include "gemm.h"
#include "rows.h"

namespace qwell {

struct TrainForm {
  const char* name;
  const TrainRows& rows;
  const GemmForm& gemm;
};

// Those that run here, the best last: avx512, avx512_bf16, amx. Takes the AMX self-test once.
std::vector<std::string> train_forms();
// Throws std::invalid_argument for one that does not run here.
const TrainForm& train_form(const std::string& name);

}  // namespace qwell
