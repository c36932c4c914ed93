// A linear phase, by one worker: rows are loaded in the forms their products read, multiplied over
// tiles (prompt rows) or panel by panel (over pairs, or as replies are), and finished: bias, row ops, destination.
#include <algorithm>

#include "worker.h"

namespace qwell {

// Units [first, end) of a phase, all of one product: their prompt rows are multiplied together, then
// wait in scratch.sums(set, ..) for their row ops.
struct Pass {
  int first = 0, end = 0, set = 0;
  int unit = 0, row = 0;  // what is next to be finished
};
// Rows of one unit, with their bias.
struct Result {
  float* y;
  int64_t stride;
};

static int panel_end(const Unit& unit) { return (unit.column + unit.columns + kPanel - 1) / kPanel; }
// A product and an addend into a slot: the ends of both halves of a layer.
static bool is_sum(const Product& product) {
  return product.dest == Product::Slot && product.epilogue.size() == 1 && product.epilogue[0].kind == RowOp::Add;
}

struct Worker::Linear {
  Worker& worker;
  const Phase& phase;
  Program& p = worker.p;
  const Program::Step& step = worker.step;
  Program::Scratch& scratch = worker.scratch;
  const Kernels& kernels = worker.kernels;
  // Of the rows of the phase, in the order of the step, the first `prompts` may go over tiles or pairs.
  const int total = worker.count(phase), prompts = phase.prompt_forms.tiles || phase.prompt_forms.bf16 ? step.tiled : 0;
  // Many rows without tiles are dealt out, so that a thread reads what it wrote itself (results of one phase are
  // rows of the next) and its share stays in its own cache; else the units are.
  const bool by_rows = !phase.prompt_forms.tiles && !phase.out_rows && total >= kRowsToDeal * p.threads();
  const int first_unit = by_rows ? 0 : phase.first_unit[worker.id];
  const int end_unit = by_rows ? int(phase.units.size()) : phase.first_unit[worker.id + 1];
  const std::pair<int, int> rows = by_rows ? worker.share(total) : std::pair{0, total};
  Pass waiting{};

  void walk() {
    const RowStore& x = load(*p.shared_rows_);
    const uint8_t* a = phase.is_packed ? p.shared_rows_->next_tiles : x.tiles;
    for (int u = first_unit, set = 0; u < end_unit; set ^= 1) {
      const Pass pass{u, prompts ? pass_end(u) : u + 1, set, u, 0};
      multiply_tiled(pass, product(pass), a, 0);
      if (partner(pass)) multiply_tiled(pass, *partner(pass), a, 1);
      finish_waiting();
      for (int i = u; i < pass.end; i++) finish_plain(pass, phase.units[i], x);
      waiting = pass;
      u = pass.end;
    }
    finish_waiting();
  }

  const Product& product(const Pass& pass) const { return phase.products[phase.units[pass.first].product]; }
  const Product* partner(const Pass& pass) const {
    const int i = product(pass).partner;
    return i >= 0 ? &phase.products[i] : nullptr;
  }
  // Of the rows of a product those before `tiled` go over tiles; partners go the same way (Program::tiled).
  int tiled(const Product& product) const { return p.tiled(phase, product) ? prompts : 0; }
  int batch_row(int i) const { return phase.out_rows ? i : step.order[i]; }

  // The rows in the forms their products read. Few rows: every thread prepares them all for itself,
  // which is cheaper than a barrier. More: dealt out, then a barrier if others read them.
  const RowStore& load(RowStore& shared) {
    const bool few = total <= 4;
    RowStore& to = few ? scratch.few : shared;
    auto [begin, end] = few ? std::pair{0, total} : worker.share(total);
    if (phase.is_packed) begin = std::clamp(prompts, begin, end);
    for (int i = begin, n; i < end; i += n) {
      n = i < prompts ? std::min({16 - i % 16, end - i, prompts - i}) : 1;  // rows of one tile
      const Forms& forms = i < prompts ? phase.prompt_forms : phase.reply_forms;
      const auto [x, stride] = inputs(i, n);
      if (forms.tiles) kernels.tiles->pack(x, stride, phase.k, i, n, prompts, to.tiles);
      for (int r = 0; r < n; r++) to.prepare(kernels, phase, forms, i + r, x + r * stride);
    }
    if (!few && !by_rows) p.team_.barrier();
    return to;
  }

  // n rows from the i-th on, up to 16, normed if the phase norms: where, and how far apart.
  std::pair<const float*, int64_t> inputs(int i, int n) {
    const auto source = [&](int j) {
      const int r = batch_row(j);
      return p.row(phase.in, phase.select ? step.batch.out_rows[r] : r);
    };
    const bool neighbours = n == 1 || source(i + n - 1) - source(i) == (n - 1) * p.stride_[phase.in];
    if (!phase.norm && neighbours) return {source(i), p.stride_[phase.in]};
    for (int r = 0; r < n; r++) {
      float* to = scratch.normed.data() + int64_t(r) * phase.k;
      if (phase.norm)
        kernels.rms_norm(source(i + r), phase.op.weight.data(), phase.op.length, phase.k, phase.op.eps, to);
      else std::memcpy(to, source(i + r), phase.k * sizeof(float));
    }
    return {scratch.normed.data(), phase.k};
  }

  // One past the last of the units that share a pass with unit u: while rows do not stay in the
  // second-level cache, they are read once for many panels.
  int pass_end(int u) const {
    const Unit& first = phase.units[u];
    int end = u + 1;
    if (tile_input_bytes(prompts, phase.k) <= kNearRows) return end;
    for (; end < end_unit && phase.units[end].product == first.product; end++)
      if ((panel_end(phase.units[end]) - first.column / kPanel) * tile_floats(prompts) * 4 > kNearSums) break;
    return end;
  }

  // All prompt rows against the panels of a pass; meanwhile the pass before is finished.
  void multiply_tiled(const Pass& pass, const Product& product, const uint8_t* a, int which) {
    const auto kernel = p.tiled(phase, product);
    if (!kernel || prompts == 0) return;
    const Weight& w = product.weight;
    const int from = phase.units[pass.first].column / kPanel, to = panel_end(phase.units[pass.end - 1]);
    // A pass and its partner share the work that waits.
    const int64_t share = waiting_pieces() / (partner(pass) && which == 0 ? 2 : 1);
    const Meanwhile meanwhile{[](void* walk) { static_cast<Linear*>(walk)->finish_next(); }, this, share};
    kernel({w.packed + from * w.panel_bytes, w.panel_bytes, to - from, next_panel(pass, product, which), w.k,
            TileChunks(phase.k), a, prompts, scratch.sums(pass.set, which), scratch.tile_linear.data(), meanwhile});
  }

  // The first panel of the pass that follows, if it is unpacked in the same way.
  const uint8_t* next_panel(const Pass& pass, const Product& product, int which) const {
    const bool to_partner = partner(pass) && which == 0;
    if (!to_partner && pass.end == end_unit) return nullptr;
    const Unit& unit = phase.units[to_partner ? pass.first : pass.end];
    const Product& next = to_partner ? *partner(pass) : phase.products[unit.product];
    if (next.weight.format != product.weight.format || next.weight.k != product.weight.k) return nullptr;
    return next.weight.packed + unit.column / kPanel * next.weight.panel_bytes;
  }

  int64_t waiting_pieces() const {
    if (waiting.unit == waiting.end) return 0;
    const int pieces = (tiled(product(waiting)) + kPieceRows - 1) / kPieceRows;
    return int64_t(waiting.end - waiting.unit) * pieces - waiting.row / kPieceRows;
  }
  // Some more rows of one more unit.
  void finish_next() {
    const int rows = tiled(product(waiting));
    finish_tiled(waiting, phase.units[waiting.unit], waiting.row, std::min(kPieceRows, rows - waiting.row));
    waiting.row += kPieceRows;
    if (waiting.row >= rows) waiting.row = 0, waiting.unit++;
  }
  void finish_waiting() {
    while (waiting_pieces() > 0) finish_next();
    waiting = {};
  }

  void finish_tiled(const Pass& pass, const Unit& unit, int first, int n) {
    const int64_t at = (unit.column - phase.units[pass.first].column) / kPanel * tile_floats(prompts);
    if (phase.packs_next) {
      const TileStep next(TileChunks(product(pass).weight.n), prompts, unit.column / 32);
      return kernels.tiles->silu({scratch.sums(pass.set, 0) + at, scratch.sums(pass.set, 1) + at,
                                  p.shared_rows_->next_tiles + next.at, next.block_bytes, first, n});
    }
    const bool whole = unit.columns % kPanel == 0;  // results are written in whole vectors
    const auto take = [&](const Product& product, int which) {
      const float* bias = product.bias.empty() || !whole ? nullptr : product.bias.data() + unit.column;
      const int64_t stride = whole ? unit.columns : p.max_unit_;
      return TileResult{scratch.sums(pass.set, which) + at,
                        prompts,
                        first,
                        n,
                        unit.columns,
                        bias,
                        nullptr,
                        0,
                        scratch.rows(which),
                        stride};
    };
    if (is_sum(product(pass)) && whole && are_neighbours(first, n))
      return add_into_slot(product(pass), unit, take(product(pass), 0));
    finish(pass, unit, first, n, [&](const Product& one, int which) {
      const TileResult result = take(one, which);
      kernels.tiles->result(result);
      if (!whole) add_bias(one, unit, n, {result.y, result.stride});
      return Result{result.y, result.stride};
    });
  }
  bool are_neighbours(int first, int n) const { return batch_row(first + n - 1) - batch_row(first) == n - 1; }

  // Results, the addend and the slot in one pass over memory.
  void add_into_slot(const Product& product, const Unit& unit, TileResult result) {
    const int slot = product.epilogue[0].other, r = batch_row(result.row);
    result.add = p.row(slot, r) + unit.column, result.add_stride = p.stride_[slot];
    result.y = p.row(product.slot, r) + unit.column, result.stride = p.stride_[product.slot];
    kernels.tiles->result(result);
  }

  // The rows that do not go over tiles: a panel is read and they are done.
  void finish_plain(const Pass& pass, const Unit& unit, const RowStore& x) {
    const int begin = std::max(tiled(product(pass)), rows.first), n = rows.second - begin;
    if (n <= 0) return;
    multiply_plain(product(pass), unit, x, scratch.tile(0));
    if (partner(pass)) multiply_plain(*partner(pass), unit, x, scratch.tile(1));
    finish(pass, unit, begin, n, [&](const Product& one, int which) {
      const Result result{scratch.tile(which), p.max_unit_};
      add_bias(one, unit, n, result);
      return result;
    });
  }
  void multiply_plain(const Product& product, const Unit& unit, const RowStore& x, float* tile) {
    const Weight& w = product.weight;
    const auto multiply = [&](Kernels::LinearFn kernel, int begin, int end) {
      for (int c = 0; c < unit.columns && begin < end; c += kPanel)
        kernel(w.packed + int64_t((unit.column + c) / kPanel) * w.panel_bytes, w.k, x.rows.data() + begin, end - begin,
               tile + c, p.max_unit_, scratch.linear_scratch.data());
      tile += int64_t(end - begin) * p.max_unit_;
    };
    const auto paired = p.paired(phase, product);
    const int begin = std::max(tiled(product), rows.first), end = rows.second;
    const int prompts_end = paired ? std::clamp(prompts, begin, end) : begin;
    multiply(paired, begin, prompts_end);
    multiply(kernels.linear[int(w.format)], prompts_end, end);
  }
  void add_bias(const Product& product, const Unit& unit, int n, const Result& result) {
    if (product.bias.empty()) return;
    for (int i = 0; i < n; i++) {
      float* y = result.y + i * result.stride;
      kernels.add(y, product.bias.data() + unit.column, unit.columns, y);
    }
  }

  // Rows [first, first + n) of a unit as `result` gives them: row ops, destination.
  template <class Get>
  void finish(const Pass& pass, const Unit& unit, int first, int n, const Get& result) {
    const Product& product = this->product(pass);
    const Result own = result(product, 0);
    const Result other = partner(pass) ? result(*partner(pass), 1) : Result{nullptr, 0};
    // The last op writes into the slot itself where it can: one copy of every result less.
    const RowOp* last = product.epilogue.empty() ? nullptr : &product.epilogue.back();
    const bool direct = product.dest == Product::Slot && last && last->moves();
    for (const RowOp& op : product.epilogue)
      for (int i = 0; i < n; i++) {
        const int r = batch_row(first + i);
        float* y = own.y + i * own.stride;
        float* to = direct && &op == last ? p.row(product.slot, r) + unit.column : y;
        worker.apply(op, y, other.y + i * other.stride, r, unit.column, unit.columns, to);
      }
    if (direct) return;
    for (int i = 0; i < n; i++) deliver(product, own.y + i * own.stride, batch_row(first + i), unit);
  }

  void deliver(const Product& product, const float* y, int r, const Unit& unit) {
    float* to = nullptr;
    switch (product.dest) {
      case Product::Slot: to = p.row(product.slot, r) + unit.column; break;
      case Product::Output: to = step.logits + int64_t(r) * p.shape.vocab + unit.column; break;
      case Product::Keys:
      case Product::Values: return worker.store_heads(product.dest, product.layer, y, r, unit.column, unit.columns);
      case Product::Pair: return;
    }
    std::memcpy(to, y, unit.columns * sizeof(float));
  }
};

void Worker::linear(const Phase& phase) {
  if (count(phase) == 0) return;  // a chunk of a prompt that wants no logits skips the head
  Linear{*this, phase}.walk();
}

}  // namespace qwell
