// Python builds a program and calls its steps.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <system_error>

#include "bind.h"
#include "program.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace qwell {

using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using OutMatrix = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ints = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Table = nb::ndarray<const int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

static std::vector<float> copy(const Floats& a) { return {a.data(), a.data() + a.shape(0)}; }
static void require(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(what);
}

static RowOp norm_op(const Floats& weight, float eps) {
  RowOp op{RowOp::Norm};
  op.weight = copy(weight), op.length = int(weight.shape(0)), op.eps = eps;
  return op;
}

static void step(Program& program, Ints input_ids, Ints row_splits, Ints past, Ints prompt_len, Ints positions,
                 Ints out_rows, Table page_table, KvCache& kv, OutMatrix logits) {
  const size_t rows = input_ids.shape(0), seqs = past.shape(0), outs = out_rows.shape(0);
  require(row_splits.shape(0) == seqs + 1 && prompt_len.shape(0) == seqs && positions.shape(0) == rows &&
              page_table.shape(0) == seqs,
          "the parts of a batch differ in length");
  require(logits.shape(0) == outs && logits.shape(1) == size_t(program.shape.vocab),
          "logits must be [output rows, vocab_size]");
  const Batch batch{input_ids.data(),        row_splits.data(), past.data(), prompt_len.data(), positions.data(),
                    out_rows.data(),         page_table.data(), int(rows),   int(seqs),         int(outs),
                    int(page_table.shape(1))};
  nb::gil_scoped_release release;
  program.step(batch, kv, logits.data());
}

static void new_cache(KvCache* self, int layers, int kv_heads, int head_dim, int pages, Floats key_bias, Floats still,
                      Floats inv_freq, bool int8) {
  require(layers > 0 && kv_heads > 0 && head_dim > 0 && head_dim % kLanes == 0 && head_dim <= kMaxHeadDim,
          "head_dim is not a multiple of 16 up to 256");
  require(pages >= 1, "a KV cache needs at least one page");
  const size_t biases = key_bias.shape(0);
  require(still.shape(0) == biases, "still is not one for each bias");
  require(biases == 0 || biases == size_t(layers) * kv_heads * head_dim, "key_bias is not one for each key");
  require(int(inv_freq.shape(0)) * 2 == head_dim, "inv_freq is not head_dim / 2");
  const Shape shape{0, kv_heads, kv_heads, head_dim, layers, 0};
  new (self) KvCache(shape, pages, {copy(key_bias), copy(still), copy(inv_freq)}, int8);
}

static void new_program(Program* self, int hidden, int heads, int kv_heads, int head_dim, int layers, int vocab,
                        int max_rows, int threads, const std::string& weights, int64_t bytes) {
  require(threads >= 1 && threads <= 1024, "threads is not in 1 .. 1024");
  require(heads > 0 && kv_heads > 0 && heads % kv_heads == 0 && layers > 0 && vocab > 0, "shape");
  const Kernels& kernels = select_kernels();
  Region region;
  {
    nb::gil_scoped_release release;
    region = Region::read_file(weights, bytes, threads);
  }
  try {
    new (self)
        Program({hidden, heads, kv_heads, head_dim, layers, vocab}, max_rows, threads, kernels, std::move(region));
  } catch (const std::system_error& error) {
    throw std::runtime_error("the system refuses " + std::to_string(threads) + " threads (" + error.what() +
                             "): use fewer");
  }
}

static Product new_product(const Program& p, Format format, int n, int k, int64_t offset, int unit) {
  Product product;
  product.weight = p.weight(format, n, k, offset);
  product.unit = unit;
  product.dest = Product::Pair;
  require(unit > 0 && unit <= 1 << 20 && unit % kPanel == 0, "a unit is a whole number of panels, up to 2^20 columns");
  return product;
}

static void bind_product(nb::module_& m) {
  nb::class_<Product>(m, "Product", "One matrix of a linear phase: its epilogue and destination.")
      .def("bias", [](Product& p, Floats b) { p.bias = copy(b); })
      .def("norm", [](Product& p, Floats w, float eps) { p.epilogue.push_back(norm_op(w, eps)); })
      .def("rope", [](Product& p, int angles) { p.epilogue.push_back({RowOp::Rope, angles}); })
      .def("add", [](Product& p, int slot) { p.epilogue.push_back({RowOp::Add, slot}); })
      .def("silu_mul",
           [](Product& p, int partner) {
             p.epilogue.push_back({RowOp::SiluMul});
             p.partner = partner;
           })
      .def("to_slot",
           [](Product& p, int slot) {
             p.dest = Product::Slot;
             p.slot = slot;
           })
      .def("to_keys",
           [](Product& p, int layer) {
             p.dest = Product::Keys;
             p.layer = layer;
           })
      .def("to_values",
           [](Product& p, int layer) {
             p.dest = Product::Values;
             p.layer = layer;
           })
      .def("to_output", [](Product& p) { p.dest = Product::Output; })
      .def("as_pair", [](Product& p) { p.dest = Product::Pair; });
}

static void bind_cache(nb::module_& m) {
  nb::class_<KvCache>(m, "KvCache", "Pages of keys and values, committed as they are used.")
      .def("__init__", &new_cache, "layers"_a, "kv_heads"_a, "head_dim"_a, "pages"_a, "key_bias"_a, "still"_a,
           "inv_freq"_a, "int8"_a,
           "key_bias [layers * kv_heads * head_dim], what k_proj adds to every key, and what of it is `Rope.still`; "
           "both empty for nothing.")
      .def(
          "commit", [](KvCache& cache) { cache.memory.commit(); }, nb::call_guard<nb::gil_scoped_release>(),
          "Takes the memory of all pages now. Raises MemoryError.")
      .def_ro("pages", &KvCache::pages);
}

// One phase each, as the fuser makes them.
static void bind_phases(nb::class_<Program>& program) {
  program
      .def("angles",
           [](Program& p, int out, Floats inv_freq) {
             Phase phase{Phase::Angles, "angles"};
             phase.out = out, phase.inv_freq = copy(inv_freq);
             p.add(phase);
           })
      .def("embed",
           [](Program& p, int out, Format format, int n, int k, int64_t offset) {
             Phase phase{Phase::Embed, "embed"};
             phase.out = out, phase.embedding = p.weight(format, n, k, offset);
             require(n >= p.shape.vocab, "the embedding has fewer rows than the vocabulary");
             p.add(phase);
           })
      .def(
          "linear",
          [](Program& p, const std::string& label, int in, bool select, bool out_rows, nb::object norm, float eps,
             const std::vector<Product>& products) {
            Phase phase{Phase::Linear, label};
            phase.in = in, phase.select = select, phase.out_rows = out_rows, phase.products = products;
            if (!norm.is_none()) phase.norm = true, phase.op = norm_op(nb::cast<Floats>(norm), eps);
            p.add(phase);
          },
          "label"_a, "in_"_a, "select"_a, "out_rows"_a, "norm"_a.none(), "eps"_a, "products"_a)
      .def("attention",
           [](Program& p, int q, int out, int layer) {
             Phase phase{Phase::Attention, "attention"};
             phase.in = q, phase.out = out, phase.layer = layer;
             p.add(phase);
           })
      .def("store", [](Program& p, int in, int layer, bool keys) {
        Phase phase{Phase::Store, keys ? "keys" : "values"};
        phase.in = in, phase.layer = layer, phase.dest = keys ? Product::Keys : Product::Values;
        p.add(phase);
      });
}

// One op each, where nothing was fused.
static void bind_single_ops(nb::class_<Program>& program) {
  program
      .def("select",
           [](Program& p, int in, int out) {
             Phase phase{Phase::Rows, "select"};
             phase.in = in, phase.out = out, phase.out_rows = true, phase.op.kind = RowOp::Select;
             p.add(phase);
           })
      .def("norm",
           [](Program& p, int in, int out, bool out_rows, Floats weight, float eps) {
             Phase phase{Phase::Rows, "rms_norm"};
             phase.in = in, phase.out = out, phase.out_rows = out_rows, phase.op = norm_op(weight, eps);
             p.add(phase);
           })
      .def("row_op", [](Program& p, const std::string& op, int in, int other, int out, bool out_rows) {
        Phase phase{Phase::Rows, op};
        phase.in = in, phase.out = out, phase.out_rows = out_rows;
        phase.op = {op == "rope" ? RowOp::Rope : op == "add" ? RowOp::Add : RowOp::SiluMul, other};
        require(op == "rope" || op == "add" || op == "silu_mul", "unknown row op");
        p.add(phase);
      });
}

void bind_program(nb::module_& m) {
  bind_product(m);
  bind_cache(m);
  nb::class_<Program> program(m, "Program", "Phases over static buffers; one step is one call without the GIL.");
  program
      .def("__init__", &new_program, "hidden"_a, "heads"_a, "kv_heads"_a, "head_dim"_a, "layers"_a, "vocab"_a,
           "max_rows"_a, "threads"_a, "weights"_a, "bytes"_a)
      .def(
          "append", [](Program& p, Bytes bytes) { p.append(bytes.data(), int64_t(bytes.shape(0))); }, "bytes"_a,
          "More packed weights, behind those of the file.")
      .def("slot", &Program::slot, "width"_a)
      .def("product", &new_product, "format"_a, "n"_a, "k"_a, "offset"_a, "unit"_a);
  bind_phases(program);
  bind_single_ops(program);
  program.def("finish", &Program::finish)
      .def("step", &step, "input_ids"_a, "row_splits"_a, "past"_a, "prompt_len"_a, "positions"_a, "out_rows"_a,
           "page_table"_a, "kv"_a, "logits"_a.noconvert())
      .def("take_times", &Program::take_times, nb::call_guard<nb::gil_scoped_release>(),
           "Nanoseconds of each phase since the last call.")
      .def("labels",
           [](const Program& p) {
             std::vector<std::string> labels;
             for (const Phase& phase : p.phases()) labels.push_back(phase.label);
             return labels;
           })
      .def_ro("max_rows", &Program::max_rows)
      .def_prop_ro("threads", &Program::threads)
      .def_prop_ro("isa", [](const Program& p) { return std::string(p.isa()); })
      .def_prop_ro("roles_differ", &Program::roles_differ)
      .def_prop_ro("weight_bytes", &Program::weight_bytes);
}

}  // namespace qwell
