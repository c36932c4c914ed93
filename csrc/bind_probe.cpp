// Python's view of the probe: checks, and the GIL let go while it measures.
#include "bind.h"

#include <nanobind/stl/string.h>

#include <stdexcept>
#include <system_error>

#include "probe.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace qwell;

void qwell::bind_probe(nb::module_& m) {
  const nb::call_guard<nb::gil_scoped_release> alone;
  nb::class_<Probe>(m, "Probe", "What memory and arithmetic give at best; one call, one measurement.")
      .def(
          "__init__",
          [](Probe* self, int threads, int64_t bytes, const std::string& isa) {
            if (threads < 1 || threads > 1024) throw std::invalid_argument("threads is not in 1 .. 1024");
            try {
              new (self) Probe(threads, bytes, isa);
            } catch (const std::system_error& error) {
              throw std::runtime_error("the system refuses " + std::to_string(threads) + " threads (" + error.what() +
                                       "): use fewer");
            }
          },
          "threads"_a, "bytes"_a, "isa"_a, alone)
      .def("read", &Probe::read, "readers"_a, "huge"_a, "streams"_a, "ahead"_a, alone,
           "Bytes a second of one pass over the buffer on 4 KB or (huge) 2 MB pages.")
      .def("peak", &Probe::peak, "kind"_a, "seconds"_a, alone,
           "Operations a second on registers: f32, int8, bf16, amx_int8 or amx_bf16; 0 if not here.")
      .def_static("clock", &Probe::clock, alone, "Cycles a second, from dependent additions over about 1 ms.");
}
