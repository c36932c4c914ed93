// The bindings of the probe, in a file of their own.
#pragma once

#include <nanobind/nanobind.h>

void bind_probe(nanobind::module_& m);
