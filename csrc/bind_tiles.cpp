// Python's view of single tiled kernels: checks, buffers in the layout of kernels.h, no algorithm.
#include "bind.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "dispatch.h"
#include "memory.h"
#include "tile_scratch.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace qwell {
namespace {

using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using OutMatrix = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Pages = nb::ndarray<const uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void require(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(what);
}

const TileKernels& tiles_named(const std::string& isa) {
  const Kernels& kernels = kernels_named(isa);
  require(kernels.tiles != nullptr, "this instruction set has no tiles");
  return *kernels.tiles;
}

// `group` panels a pass, as a program may choose.
void tile_linear(const std::string& isa, Format format, Bytes packed, int n, Matrix x, OutMatrix out, int group) {
  const TileKernels& tiles = tiles_named(isa);
  const FormatInfo info = format_info(format);
  const int rows = int(x.shape(0)), k = int(x.shape(1)), panels = (n + kPanel - 1) / kPanel;
  const int64_t panel_bytes = int64_t(k) / info.block_inputs * info.block_bytes;
  require(tiles.linear[int(format)] != nullptr, "this format has no tiled form");
  require(rows > 0 && k > 0, "x is empty");
  require(k % (info.integer ? std::max(info.block_inputs, kGroup) : 2) == 0, "k is not a whole number of blocks");
  require(int64_t(packed.shape(0)) >= panels * panel_bytes, "the packed matrix is too short");
  require(int(out.shape(0)) == rows && int(out.shape(1)) == panels * kPanel, "out must be [rows, panels * 32]");
  require(group >= 1, "a pass has at least one panel");
  Region a(tile_input_bytes(rows, k), false), c(tile_floats(rows) * panels * 4, false);
  Region scratch(TileScratch::kLinearBytes, false);
  float* sums = reinterpret_cast<float*>(c.data());
  for (int r = 0; r < rows; r += 16)
    tiles.pack(x.data() + int64_t(r) * k, k, k, r, std::min(16, rows - r), rows, a.data());
  tiles.begin();
  for (int p = 0; p < panels; p += group) {
    const int count = std::min(group, panels - p);
    const uint8_t* at = packed.data() + p * panel_bytes;
    const uint8_t* next = p + count < panels ? at + count * panel_bytes : nullptr;
    tiles.linear[int(format)]({at,
                               panel_bytes,
                               count,
                               next,
                               k,
                               TileChunks(k),
                               a.data(),
                               rows,
                               sums + p * tile_floats(rows),
                               scratch.data(),
                               {}});
  }
  tiles.end();
  tiles.result({sums, rows, 0, rows, panels * kPanel, nullptr, nullptr, 0, out.data(), panels * kPanel});
}

void tile_attention(const std::string& isa, Matrix q, Pages pages, int head_dim, int first_position, OutMatrix out) {
  const Kernels& kernels = kernels_named(isa);
  require(kernels.tiled_attention != nullptr, "this instruction set has no tiled attention");
  require(head_dim > 0 && head_dim % kLanes == 0 && head_dim <= kMaxHeadDim, "head_dim is not a multiple of 16");
  const int rows = int(q.shape(0)), group = int(q.shape(1)) / head_dim;
  const int64_t width = q.shape(1);
  require(group > 0 && width == group * head_dim && rows > 0 && first_position >= 0,
          "q must be [rows, group * head_dim]");
  require(int64_t(pages.shape(1)) == kv_page_bytes(head_dim, false), "pages have the wrong size");
  require(int64_t(first_position) + rows <= int64_t(pages.shape(0)) * kPage, "fewer pages than positions");
  require(out.shape(0) == q.shape(0) && out.shape(1) == q.shape(1), "out must have the shape of q");
  std::vector<const uint8_t*> at;
  for (size_t i = 0; i < pages.shape(0); i++) at.push_back(pages.data() + i * pages.shape(1));
  Region scratch(TileScratch::bytes(group, head_dim), false);
  if (kernels.tiles) kernels.tiles->begin();
  for (int r = 0, n; r < rows; r += n) {
    n = std::min(kWindow - (first_position + r) % kWindow, rows - r);
    kernels.tiled_attention->whole({q.data() + r * width,
                                    out.data() + r * width,
                                    width,
                                    at.data(),
                                    n,
                                    group,
                                    head_dim,
                                    first_position + r,
                                    false,
                                    nullptr,
                                    {},
                                    nullptr},
                                   scratch.data());
  }
  if (kernels.tiles) kernels.tiles->end();
}

}  // namespace

void bind_tiles(nb::module_& m) {
  m.def("tile_linear", &tile_linear, "isa"_a, "format"_a, "packed"_a, "n"_a, "x"_a, "out"_a.noconvert(), "group"_a = 1);
  m.def("tile_attention", &tile_attention, "isa"_a, "q"_a, "pages"_a, "head_dim"_a, "first_position"_a,
        "out"_a.noconvert());
}

}  // namespace qwell
