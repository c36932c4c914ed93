// The parts of the module, each in a file of its own name.
#pragma once

#include <nanobind/nanobind.h>

namespace qwell {

void bind_kernels(nanobind::module_& m);
void bind_tiles(nanobind::module_& m);
void bind_program(nanobind::module_& m);
void bind_probe(nanobind::module_& m);
void bind_sampler(nanobind::module_& m);
void bind_train(nanobind::module_& m);

}  // namespace qwell
