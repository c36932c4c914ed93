// Python's view of the kernels, one by one, for tests and benchmarks: same code, no program around it.
#include "bind.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "dispatch.h"
#include "kv_cache.h"
#include "memory.h"
#include "scratch.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace qwell {

using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using OutMatrix = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using OutFloats = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using OutHalves = nb::ndarray<uint16_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Pages = nb::ndarray<const uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

static void require(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(what);
}

static void linear_kernel(const std::string& isa, Format format, Bytes packed, int n, Matrix x, OutMatrix out,
                          bool paired) {
  const Kernels& kernels = kernels_named(isa);
  const auto kernel = paired ? kernels.paired : kernels.linear[int(format)];
  require(kernel && (!paired || format == Format::BF16), "this instruction set does not multiply this format in pairs");
  const FormatInfo info = format_info(format);
  const int rows = int(x.shape(0)), k = int(x.shape(1)), panels = (n + kPanel - 1) / kPanel;
  const int64_t panel_bytes = int64_t(k) / info.block_inputs * info.block_bytes;
  require(rows > 0 && k > 0, "x is empty");
  require(k % (info.integer ? std::max(info.block_inputs, kGroup) : 2) == 0, "k is not a whole number of blocks");
  require(int64_t(packed.shape(0)) >= panels * panel_bytes, "the packed matrix is too short");
  require(int(out.shape(0)) == rows && int(out.shape(1)) == panels * kPanel, "out must be [rows, panels * 32]");
  const int padded = (k + kGroup - 1) / kGroup * kGroup;
  Region memory(RowStore::bytes(rows, padded), false);
  RowStore store(memory.data(), rows, padded);
  for (int r = 0; r < rows; r++) {
    const float* from = x.data() + int64_t(r) * k;
    std::copy(from, from + k, store.rows[r].f32);
    if (paired) kernels.round(from, k, store.rows[r].bf16);
    if (info.integer) kernels.quantize(from, k, store.rows[r]);
  }
  std::vector<uint8_t> memory_of_scratch(linear_scratch_bytes(k) + 64);  // where a sanitizer sees its end
  void* scratch = memory_of_scratch.data();
  size_t room = memory_of_scratch.size();
  std::align(64, linear_scratch_bytes(k), scratch, room);
  if (kernels.tiles) kernels.tiles->begin();
  for (int p = 0; p < panels; p++)
    kernel(packed.data() + p * panel_bytes, k, store.rows.data(), rows, out.data() + p * kPanel, out.shape(1),
           static_cast<uint8_t*>(scratch));
  if (kernels.tiles) kernels.tiles->end();
}

using PageList = std::vector<const uint8_t*>;

static void attend(const std::string& isa, Matrix q, const PageList& pages, int head_dim, int first_position,
                   OutMatrix out, bool int8, const KeyCentre& centre) {
  require(head_dim > 0 && head_dim % kLanes == 0 && head_dim <= kMaxHeadDim, "head_dim is not a multiple of 16");
  const int rows = int(q.shape(0)), group = int(q.shape(1)) / head_dim;
  require(group > 0 && int(q.shape(1)) == group * head_dim && rows > 0 && first_position >= 0,
          "q must be [rows, group * head_dim]");
  require(int64_t(first_position) + rows <= int64_t(pages.size()) * kPage, "fewer pages than positions");
  require(out.shape(0) == q.shape(0) && out.shape(1) == q.shape(1), "out must have the shape of q");
  std::vector<float> partials(size_t(rows + 1) * group * partial_floats(head_dim));
  std::vector<uint16_t> unpacked(size_t(kPart) * 2 * head_dim);
  kernels_named(isa).attention({q.data(), out.data(), int64_t(q.shape(1)), pages.data(), rows, group, head_dim,
                                first_position, int8, partials.data(), centre, unpacked.data()});
}

static void attention(const std::string& isa, Matrix q, Pages pages, int head_dim, int first_position, OutMatrix out) {
  require(int64_t(pages.shape(1)) == kv_page_bytes(head_dim, false), "pages have the wrong size");
  PageList list;
  for (size_t i = 0; i < pages.shape(0); i++) list.push_back(pages.data() + i * pages.shape(1));
  attend(isa, q, list, head_dim, first_position, out, false, {});
}

// Over the pages 0, 1, ... of a cache, in this order; its first layer and head.
static void cache_attention(const std::string& isa, Matrix q, const KvCache& cache, int first_position, OutMatrix out) {
  PageList list;
  for (int i = 0; i < cache.pages; i++) list.push_back(cache.at(0, i, 0));
  attend(isa, q, list, cache.shape.head_dim, first_position, out, cache.int8, cache.centre(0, 0));
}

// Page i of the first layer and head holds positions 64 i to 64 i + 63.
static void cache_write(KvCache& cache, int position, Floats key, Floats value) {
  require(position >= 0 && position < cache.pages * kPage, "position is not in the cache");
  require(int(key.shape(0)) == cache.shape.head_dim && key.shape(0) == value.shape(0), "key or value is no head");
  cache.write_key(0, position / kPage, 0, position, key.data());
  cache.write_value(0, position / kPage, 0, position, value.data());
}

static nb::bytes cache_page(const KvCache& cache, int page) {
  require(page >= 0 && page < cache.pages, "no such page");
  return nb::bytes(cache.at(0, page, 0), kv_page_bytes(cache.shape.head_dim, cache.int8));
}

static void cache_unpack(const std::string& isa, const KvCache& cache, int page, OutHalves out) {
  require(cache.int8 && page >= 0 && page < cache.pages, "no such int8 page");
  require(int(out.shape(0)) == 2 * cache.shape.head_dim * kPage, "out must have the numbers of a page");
  kernels_named(isa).unpack_kv(cache.at(0, page, 0), cache.centre(0, 0), page, cache.shape.head_dim, out.data());
}

static void row_kernel(const std::string& isa, const std::string& op, Floats a, Floats b, int n, float eps,
                       OutFloats y) {
  const Kernels& kernels = kernels_named(isa);
  require(int(a.shape(0)) == n && int(y.shape(0)) >= n, "lengths differ");
  require(int(b.shape(0)) == n, "lengths differ");
  if (op == "rms_norm") kernels.rms_norm(a.data(), b.data(), n, int(y.shape(0)), eps, y.data());
  else if (op == "silu_mul") kernels.silu_mul(a.data(), b.data(), n, y.data());
  else if (op == "add") kernels.add(a.data(), b.data(), n, y.data());
  else if (op == "rope") {  // b holds cos, then sin
    std::copy(a.data(), a.data() + n, y.data());
    kernels.rope(y.data(), n, b.data(), b.data() + n / 2);
  } else throw std::invalid_argument("unknown row op");
}

void bind_kernels(nb::module_& m) {
  m.def(
      "format_info",
      [](Format f) {
        const FormatInfo i = format_info(f);
        return nb::make_tuple(i.block_inputs, i.block_bytes, i.integer);
      },
      "(inputs of a block, bytes of a block of 32 columns, integer?)");
  m.def(
      "gather_column",
      [](Format f, Bytes packed, int k, int64_t index, OutFloats out) {
        const FormatInfo i = format_info(f);
        require(k > 0 && k % i.block_inputs == 0 && int(out.shape(0)) == k, "out must have k floats");
        const int64_t panels = int64_t(packed.shape(0)) / (int64_t(k) / i.block_inputs * i.block_bytes);
        require(index >= 0 && index / kPanel < panels, "column out of range");
        gather_column(f, packed.data(), k, index, out.data());
      },
      "One column of a packed matrix, dequantised.");
  m.def("linear", &linear_kernel, "isa"_a, "format"_a, "packed"_a, "n"_a, "x"_a, "out"_a.noconvert(),
        "paired"_a = false);
  m.def("attention", &attention, "isa"_a, "q"_a, "pages"_a, "head_dim"_a, "first_position"_a, "out"_a.noconvert());
  m.def("cache_attention", &cache_attention, "isa"_a, "q"_a, "cache"_a, "first_position"_a, "out"_a.noconvert());
  m.def("cache_write", &cache_write, "cache"_a, "position"_a, "key"_a, "value"_a);
  m.def("cache_page", &cache_page, "cache"_a, "page"_a);
  m.def("cache_unpack", &cache_unpack, "isa"_a, "cache"_a, "page"_a, "out"_a.noconvert());
  m.def("row_op", &row_kernel, "isa"_a, "op"_a, "a"_a, "b"_a, "n"_a, "eps"_a, "y"_a.noconvert());
}

}  // namespace qwell
