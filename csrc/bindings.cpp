// Python's view of the core, here and in the bind_ files: checks of types and shapes, the GIL let go
// around long calls, and no algorithm.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "cpu.h"
#include "dispatch.h"
#include "bind.h"
#include "tile_health.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace qwell;

static void bind_formats(nb::module_& m) {
  nb::enum_<Format> format(m, "Format");
  const char* names[kNumFormats] = {"F32",  "F16",  "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1",
                                    "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"};
  for (int i = 0; i < kNumFormats; i++) format.value(names[i], Format(i));
}

static void bind_cpu(nb::module_& m) {
  m.def("isa_available", &isa_available, "Instruction sets that run here, worst first.");
  m.def(
      "isa_selected", [] { return std::string(select_kernels().name); },
      "The one in use: the best, or QWELL_FORCE_ISA.");
  m.def("amx_status", &amx_status, "'ok', or why prompts are not read by AMX here.");
  m.def("cpu_features", [] {
    const Cpu& c = cpu();
    nb::dict d;
    d["avx2"] = c.avx2, d["fma"] = c.fma, d["f16c"] = c.f16c, d["avx_vnni"] = c.avx_vnni;
    d["avx512"] = c.avx512;
    d["avx512_vnni"] = c.avx512_vnni, d["avx512_bf16"] = c.avx512_bf16;
    d["amx_int8"] = c.amx_int8, d["amx_bf16"] = c.amx_bf16, d["dotprod"] = c.dotprod;
    return d;
  });
}

NB_MODULE(_core, m) {
  m.doc() = "The native core of qwell: packed formats, kernels, and the program that walks them.";
  m.attr("PANEL") = kPanel;
  bind_formats(m);
  bind_cpu(m);
  bind_kernels(m);
  bind_tiles(m);
  bind_program(m);
  bind_probe(m);
  bind_sampler(m);
  bind_train(m);
}
