// Building a program: slots, checks, and how the work of a phase is cut for the threads.
#include "program.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <numeric>
#include <stdexcept>

#include "scratch.h"

namespace qwell {

static void require(bool condition, const std::string& what) {
  if (!condition) throw std::invalid_argument(what);
}

static int padded(int n, int to) { return (n + to - 1) / to * to; }
static constexpr int kMostWidth = 1 << 20, kMostColumns = 1 << 30;  // far below what int can count

static int64_t padded_bytes(int64_t n) { return (n + 63) / 64 * 64; }

Program::Program(Shape s, int max_rows, int threads, const Kernels& kernels, Region weights)
    : shape(s), max_rows(max_rows), team_(threads), kernels_(kernels), weights_(std::move(weights)) {
  require(max_rows >= 1 && max_rows <= 4096, "max_rows is not in 1 .. 4096");
  require(s.head_dim > 0 && s.head_dim % kLanes == 0 && s.head_dim <= kMaxHeadDim,
          "head_dim " + std::to_string(s.head_dim) + " is not a multiple of 16 up to 256");
  require(int64_t(s.heads) * s.head_dim <= kMostWidth, "more heads than a slot is wide");
}

Program::~Program() = default;

int Program::slot(int width) {
  require(width > 0 && width <= kMostWidth && slots_.empty(),
          "a slot needs a width up to 2^20, before the program is finished");
  width_.push_back(width);
  // An input can be read to its padded k; an odd number of lines, so that rows do not share cache sets.
  stride_.push_back(padded(width, 256) + kLanes);
  return int(width_.size()) - 1;
}

Weight Program::weight(Format format, int n, int k, int64_t offset) const {
  const FormatInfo info = format_info(format);
  require(n > 0 && k > 0 && n <= kMostColumns && k <= kMostWidth, "a weight needs rows and columns, up to 2^30 x 2^20");
  const int k_padded = padded(k, info.integer ? std::max(info.block_inputs, kGroup) : 2);
  const int64_t panel = int64_t(k_padded) / info.block_inputs * info.block_bytes;
  const int64_t bytes = padded(n, kPanel) / kPanel * panel;
  require(offset >= 0 && offset % 64 == 0, "a packed weight starts off a 64-byte border");
  const int64_t behind = offset - padded_bytes(weights_.size());
  const Region& region = behind < 0 ? weights_ : appended_;
  const int64_t at = behind < 0 ? offset : behind;
  require(at + bytes <= region.size(), "a packed weight lies outside of the file");
  return {format, region.data() + at, n, k_padded, panel, behind >= 0};
}

void Program::append(const uint8_t* bytes, int64_t size) {
  require(appended_.size() == 0, "weights are appended once");
  if (size == 0) return;
  appended_ = Region(size, true);
  std::memcpy(appended_.data(), bytes, size);
}

// A row op on units of `columns`: its operands exist and are wide enough, its span divides the unit.
void Program::check_op(const Phase& p, const RowOp& op, int columns, int width) const {
  const bool has_operand = op.kind == RowOp::Add || op.kind == RowOp::Rope;
  require(!has_operand || is_slot(op.other), p.label + ": an operand is no slot");
  require(op.kind != RowOp::Add || width_[op.other] >= width, p.label + ": an addend is too narrow");
  require(op.kind != RowOp::Rope || (columns % shape.head_dim == 0 && width_[op.other] == shape.head_dim),
          p.label + ": rope needs whole heads, and angles of a head's width");
  require(op.kind != RowOp::Norm || (op.length > 0 && columns % op.length == 0),
          p.label + ": norms do not divide the columns");
}

void Program::check_product(const Phase& p, const Product& product) const {
  const Weight& w = product.weight;
  require(w.k <= stride_[p.in], p.label + ": the input is narrower than the weight");
  require(product.bias.empty() || int(product.bias.size()) == w.n, p.label + ": bias length");
  require(product.dest != Product::Slot || (is_slot(product.slot) && width_[product.slot] == w.n),
          p.label + ": the destination does not fit");
  require(product.dest != Product::Output || w.n == shape.vocab, p.label + ": logits are not vocab_size wide");
  const bool to_pages = product.dest == Product::Keys || product.dest == Product::Values;
  require(!to_pages ||
              (w.n == shape.kv_heads * shape.head_dim && is_layer(product.layer) && product.unit % shape.head_dim == 0),
          p.label + ": keys or values do not fit their pages");
  for (const RowOp& op : product.epilogue) {
    check_op(p, op, product.unit, w.n);
    if (op.kind != RowOp::SiluMul) continue;
    require(product.partner >= 0 && product.partner < int(p.products.size()), p.label + ": silu has no partner");
    const Product& up = p.products[product.partner];
    require(up.weight.n == w.n && up.dest == Product::Pair, p.label + ": silu's partner does not match");
  }
}

void Program::check_phase(const Phase& p) const {
  require(slots_.empty(), p.label + ": the program is finished");
  const bool reads = p.kind != Phase::Angles && p.kind != Phase::Embed;
  const bool writes = p.kind != Phase::Linear && p.kind != Phase::Store;
  require(!reads || is_slot(p.in), p.label + ": no input slot");
  require(!writes || is_slot(p.out), p.label + ": no output slot");
  const int heads = shape.heads * shape.head_dim, kv_heads = shape.kv_heads * shape.head_dim;
  switch (p.kind) {
    case Phase::Angles:
      return require(int(p.inv_freq.size()) * 2 == width_[p.out], p.label + ": inv_freq does not fit its slot");
    case Phase::Embed:
      return require(width_[p.out] <= p.embedding.k && p.embedding.k <= stride_[p.out], p.label + ": row width");
    case Phase::Attention:
      return require(width_[p.in] == heads && width_[p.out] == heads && is_layer(p.layer), p.label + ": shape");
    case Phase::Store: return require(width_[p.in] == kv_heads && is_layer(p.layer), p.label + ": shape");
    case Phase::Rows:
      require(width_[p.in] == width_[p.out], p.label + ": widths differ");
      require(p.op.kind != RowOp::SiluMul || (is_slot(p.op.other) && width_[p.op.other] == width_[p.in]),
              p.label + ": widths differ");
      return check_op(p, p.op, width_[p.out], width_[p.out]);
    case Phase::Linear:
      require(!p.products.empty(), p.label + ": no products");
      require(!p.norm || (p.op.length > 0 && p.op.length <= width_[p.in]), p.label + ": norm is wider than its input");
      for (const Product& product : p.products) check_product(p, product);
  }
}

// The head reads one row a sequence and its errors are errors of the logits: reply form for all.
TileKernels::LinearFn Program::tiled(const Phase& phase, const Product& product) const {
  const auto form = [&](const Product& one) { return kernels_.tiles->linear[int(one.weight.format)]; };
  if (!kernels_.tiles || phase.out_rows) return nullptr;
  // Two that are put together by silu_mul go the same way.
  for (const Product& one : phase.products)
    if (one.partner >= 0 && (&one == &product || &phase.products[one.partner] == &product))
      if (!form(one) || !form(phase.products[one.partner])) return nullptr;
  return form(product);
}

bool Program::roles_differ() const {
  return std::any_of(phases_.begin(), phases_.end(),
                     [](const Phase& p) { return p.prompt_forms.tiles || p.prompt_forms.bf16; });
}

void Program::add(Phase phase) {
  check_phase(phase);
  for (const Product& p : phase.products) {
    const bool integer = format_info(p.weight.format).integer;
    const auto need = [&](Forms& forms) {
      forms.f32 |= !integer;
      forms.q8 |= integer;
    };
    need(phase.reply_forms);
    if (tiled(phase, p)) phase.prompt_forms.tiles = true;
    else if (paired(phase, p)) phase.prompt_forms.bf16 = true;
    else need(phase.prompt_forms);
    phase.k = std::max(phase.k, p.weight.k);
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

// Phases whose whole result is the input of the next, and only of that one.
void Program::find_packed() {
  const auto reads = [&](const Phase& phase, int slot) {
    bool found = phase.in == slot || phase.op.other == slot;
    for (const Product& product : phase.products)
      for (const RowOp& op : product.epilogue) found |= op.other == slot;
    return found;
  };
  for (size_t i = 0; i + 1 < phases_.size(); i++) {
    Phase &phase = phases_[i], &next = phases_[i + 1];
    if (phase.kind != Phase::Linear || next.kind != Phase::Linear || next.norm || next.select) continue;
    const Product& product = phase.products[0];
    const bool is_pair = phase.products.size() == 2 && product.partner == 1 && product.epilogue.size() == 1 &&
                         product.epilogue[0].kind == RowOp::SiluMul && product.unit == kPanel && product.bias.empty() &&
                         phase.products[1].bias.empty();
    if (!is_pair || !tiled(phase, product) || product.dest != Product::Slot || next.in != product.slot) continue;
    const Forms& forms = next.prompt_forms;
    if (!forms.tiles || forms.f32 || forms.bf16 || forms.q8 || next.k != padded(product.weight.n, 32)) continue;
    // The slot may be written again before it is read elsewhere: later readers see what was written then.
    bool elsewhere = false;
    for (size_t j = i + 2; j < phases_.size(); j++) {
      if (reads(phases_[j], product.slot)) {
        elsewhere = !(phases_[j].kind == Phase::Linear && phases_[j - 1].kind == Phase::Linear &&
                      phases_[j - 1].products[0].slot == product.slot);
        break;
      }
    }
    if (!elsewhere) phase.packs_next = next.is_packed = true;
  }
}

void Program::finish() {
  require(slots_.empty() && !phases_.empty(), "a program is finished once, after its phases");
  int64_t floats = 0;
  for (int stride : stride_) floats += int64_t(stride) * max_rows;
  arena_ = Region(floats * 4, true);
  shared_ = Region(RowStore::bytes(max_rows, max_k_), true);
  shared_rows_ = std::make_unique<RowStore>(shared_.data(), max_rows, max_k_);
  scratch_.clear();  // of an attempt that failed
  for (int i = 0; i < threads(); i++) scratch_.push_back(std::make_unique<Scratch>(shape, max_rows, max_k_, max_unit_));
  times_.assign(phases_.size(), 0);
  std::vector<float*> slots;
  float* next = reinterpret_cast<float*>(arena_.data());
  for (int stride : stride_) slots.push_back(next), next += int64_t(stride) * max_rows;
  for (Phase& phase : phases_)
    if (phase.kind == Phase::Linear) cut_units(phase, threads());
  find_packed();
  slots_ = std::move(slots);  // last: with them the program is finished
}

std::vector<int64_t> Program::take_times() {
  std::lock_guard lock(one_step_);
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
    require(begin < end && end <= b.rows && b.past[s] >= 0, "a sequence without rows");
    require(b.prompt_len[s] >= 0, "a prompt of less than no tokens");
    const int64_t last = int64_t(b.past[s]) + end - begin;
    require(last <= int64_t(b.max_pages) * kPage, "a sequence has fewer pages than tokens");
    require(!kv.int8 || last <= int64_t(kv.pages) * kPage, "an int8 sequence is longer than its cache");
    for (int r = begin; r < end; r++)
      require(b.positions[r] == b.past[s] + r - begin, "positions do not follow the past");
    for (int p = 0; p < (last + kPage - 1) / kPage; p++) {
      const int page = b.page_table[int64_t(s) * b.max_pages + p];
      require(page >= 0 && page < kv.pages, "a page is out of range");
    }
  }
}

}  // namespace qwell
