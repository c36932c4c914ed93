// Building a program: slots, checks, and how the work of a phase is cut for the threads.
#include "program.h"

#include <unistd.h>

#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "scratch.h"

namespace qwell {

static void require(bool condition, const std::string& what) {
  if (!condition) throw std::invalid_argument(what);
}

static int padded(int n, int to) { return (n + to - 1) / to * to; }

KvCache::KvCache(const Shape& s, int pages)
    : shape(s), pages(pages), memory(int64_t(s.layers) * pages * s.kv_heads * 2 * s.head_dim * kPage * 2, false) {}

uint16_t* KvCache::at(int layer, int page, int head) const {
  const int64_t index = (int64_t(layer) * pages + page) * shape.kv_heads + head;
  return reinterpret_cast<uint16_t*>(memory.data()) + index * 2 * shape.head_dim * kPage;
}

Program::Program(Shape s, int max_rows, int threads, const Kernels& kernels, Region weights)
    : shape(s), max_rows(max_rows), team_(threads), kernels_(kernels), weights_(std::move(weights)), owner_(getpid()) {
  require(max_rows >= 1 && max_rows <= 4096, "max_rows is not in 1 .. 4096");
  require(s.head_dim % kLanes == 0 && s.head_dim <= kMaxHeadDim,
          "head_dim " + std::to_string(s.head_dim) + " is not a multiple of 16 up to 256");
}

Program::~Program() = default;

int Program::slot(int width) {
  require(width > 0, "a slot needs a width");
  width_.push_back(width);
  stride_.push_back(padded(width, 256));  // so that an input can be read to its padded k
  return int(width_.size()) - 1;
}

Weight Program::weight(Format format, int n, int k, int64_t offset) const {
  const FormatInfo info = format_info(format);
  require(n > 0 && k > 0, "a weight needs rows and columns");
  const int k_padded = padded(k, info.integer ? std::max(info.block_inputs, kGroup) : 2);
  const int64_t panel = int64_t(k_padded) / info.block_inputs * info.block_bytes;
  const int64_t bytes = padded(n, kPanel) / kPanel * panel;
  require(offset >= 0 && offset % 64 == 0 && offset + bytes <= weights_.size(),
          "a packed weight lies outside of the file");
  return {format, weights_.data() + offset, n, k_padded, panel};
}

void Program::check_phase(const Phase& p) const {
  auto is_slot = [&](int s) { return s >= 0 && s < int(width_.size()); };
  if (p.kind != Phase::Angles && p.kind != Phase::Embed) require(is_slot(p.in), p.label + ": no input slot");
  if (p.kind != Phase::Linear && p.kind != Phase::Store) require(is_slot(p.out), p.label + ": no output slot");
  if (p.kind == Phase::Embed)
    require(width_[p.out] <= p.embedding.k, p.label + ": embedding is narrower than its slot");
  if (p.kind == Phase::Angles)
    require(int(p.inv_freq.size()) * 2 == width_[p.out], p.label + ": inv_freq does not fit its slot");
  if (p.kind == Phase::Rows && p.op.kind != RowOp::Select && p.op.kind != RowOp::Norm)
    require(is_slot(p.op.other), p.label + ": the second operand is no slot");
  if (p.kind == Phase::Attention)
    require(width_[p.in] == shape.heads * shape.head_dim && p.layer >= 0 && p.layer < shape.layers,
            p.label + ": shape");
  if (p.kind == Phase::Store)
    require(width_[p.in] == shape.kv_heads * shape.head_dim && p.layer >= 0 && p.layer < shape.layers,
            p.label + ": shape");
  for (const Product& product : p.products) {
    require(product.weight.k <= stride_[p.in], p.label + ": input is narrower than the weight");
    require(product.bias.empty() || int(product.bias.size()) == product.weight.n, p.label + ": bias length");
    require(product.dest != Product::Slot || (is_slot(product.slot) && width_[product.slot] == product.weight.n),
            p.label + ": destination");
    require(product.dest != Product::Output || product.weight.n == shape.vocab, p.label + ": logits");
    const bool to_pages = product.dest == Product::Keys || product.dest == Product::Values;
    require(!to_pages || (product.weight.n == shape.kv_heads * shape.head_dim && product.layer >= 0 &&
                          product.layer < shape.layers && product.unit % shape.head_dim == 0),
            p.label + ": keys or values");
    for (const RowOp& op : product.epilogue) {
      require(op.kind == RowOp::Norm || op.kind == RowOp::SiluMul || is_slot(op.other), p.label + ": epilogue operand");
      require(op.kind != RowOp::Norm || product.unit % op.length == 0, p.label + ": norm span");
      require(op.kind != RowOp::Rope || product.unit % shape.head_dim == 0, p.label + ": rope span");
      require(op.kind != RowOp::SiluMul || (product.partner >= 0 && product.partner < int(p.products.size())),
              p.label + ": silu partner");
    }
  }
}

void Program::add(Phase phase) {
  check_phase(phase);
  for (const Product& p : phase.products) {
    const bool integer = format_info(p.weight.format).integer;
    phase.need_f32 |= !integer;
    phase.need_q8 |= integer && p.precision == Precision::Q8;
    phase.need_q16 |= integer && p.precision == Precision::Q16;
    max_k_ = std::max(max_k_, padded(p.weight.k, kGroup));
    max_unit_ = std::max(max_unit_, padded(p.unit, kPanel));
  }
  phases_.push_back(std::move(phase));
}

// Units in order, cut so that every thread streams about the same number of bytes.
static void cut_units(Phase& phase, int threads) {
  std::vector<int64_t> cost;
  for (int i = 0; i < int(phase.products.size()); i++) {
    const Product& p = phase.products[i];
    if (p.dest == Product::Pair) continue;  // computed with its partner
    const int64_t panel = p.weight.panel_bytes + (p.partner >= 0 ? phase.products[p.partner].weight.panel_bytes : 0);
    for (int column = 0; column < p.weight.n; column += p.unit) {
      const int columns = std::min(p.unit, p.weight.n - column);
      phase.units.push_back({i, column, columns});
      cost.push_back(padded(columns, kPanel) / kPanel * panel);
    }
  }
  const int64_t total = std::accumulate(cost.begin(), cost.end(), int64_t(0));
  int64_t done = 0;
  phase.first_unit = {0};
  for (int i = 0; i < int(cost.size()); i++) {
    while (int(phase.first_unit.size()) < threads &&
           done + cost[i] / 2 >= total * int64_t(phase.first_unit.size()) / threads)
      phase.first_unit.push_back(i);
    done += cost[i];
  }
  phase.first_unit.resize(threads + 1, int(cost.size()));
  phase.first_unit[threads] = int(cost.size());
}

void Program::finish() {
  int64_t floats = 0;
  for (int stride : stride_) floats += int64_t(stride) * max_rows;
  arena_ = Region(floats * 4, true);
  float* next = reinterpret_cast<float*>(arena_.data());
  for (int stride : stride_) slots_.push_back(next), next += int64_t(stride) * max_rows;
  shared_ = Region(RowStore::bytes(max_rows, max_k_), true);
  for (int i = 0; i < threads(); i++) scratch_.push_back(std::make_unique<Scratch>(max_rows, max_k_, max_unit_));
  for (Phase& phase : phases_)
    if (phase.kind == Phase::Linear) cut_units(phase, threads());
  times_.assign(phases_.size(), 0);
}

std::vector<int64_t> Program::take_times() {
  std::vector<int64_t> times(phases_.size(), 0);
  times.swap(times_);
  return times;
}

void Program::check(const Batch& b, const KvCache& kv) const {
  require(!slots_.empty(), "the program is not finished");
  require(b.rows >= 1 && b.rows <= max_rows,
          "a step takes 1 .. " + std::to_string(max_rows) + " rows, got " + std::to_string(b.rows));
  require(b.seqs >= 1 && b.outs >= 0 && b.outs <= b.rows, "sequences or output rows out of range");
  require(kv.shape.layers == shape.layers && kv.shape.kv_heads == shape.kv_heads && kv.shape.head_dim == shape.head_dim,
          "this KV cache belongs to another model");
  require(b.row_splits[0] == 0 && b.row_splits[b.seqs] == b.rows, "row_splits do not cover the rows");
  for (int r = 0; r < b.rows; r++)
    require(b.input_ids[r] >= 0 && b.input_ids[r] < shape.vocab,
            "input id " + std::to_string(b.input_ids[r]) + " is not in the vocabulary");
  for (int i = 0; i < b.outs; i++)
    require(b.out_rows[i] >= 0 && b.out_rows[i] < b.rows, "an output row is out of range");
  for (int s = 0; s < b.seqs; s++) {
    const int begin = b.row_splits[s], end = b.row_splits[s + 1];
    require(begin < end && b.past[s] >= 0, "a sequence without rows");
    const int64_t last = int64_t(b.past[s]) + end - begin;
    require(last <= int64_t(b.max_pages) * kPage, "a sequence has fewer pages than tokens");
    for (int r = begin; r < end; r++)
      require(b.positions[r] == b.past[s] + r - begin, "positions do not follow the past");
    for (int p = 0; p < (last + kPage - 1) / kPage; p++) {
      const int page = b.page_table[int64_t(s) * b.max_pages + p];
      require(page >= 0 && page < kv.pages, "a page is out of range");
    }
  }
}

}  // namespace qwell
