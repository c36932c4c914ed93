// One step: every worker walks the phases; a barrier ends each.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <mutex>
#include <stdexcept>

#include "scratch.h"

namespace qwell {

RowStore::RowStore(uint8_t* memory, int count, int k) : rows(count), k_max(k) {
  const int64_t n = int64_t(count) * k;
  f32 = reinterpret_cast<float*>(memory);
  scale8 = f32 + n, scale16 = scale8 + n / kGroup;
  sum8 = reinterpret_cast<int32_t*>(scale16 + n / kGroup), sum16 = sum8 + n / kLanes;
  q8 = reinterpret_cast<int8_t*>(sum16 + n / kLanes), lo = q8 + n, hi = lo + n;
  tiles = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(hi + n) + 63) / 64 * 64);
  next_tiles = tiles + tile_input_bytes(count, k);
  for (int64_t r = 0; r < count; r++)
    rows[r] = {f32 + r * k,
               q8 + r * k,
               lo + r * k,
               hi + r * k,
               scale8 + r * k / kGroup,
               scale16 + r * k / kGroup,
               sum8 + r * k / kLanes,
               sum16 + r * k / kLanes};
}

void RowStore::prepare(const Kernels& kernels, const Phase& phase, const Forms& forms, int r, const float* x) {
  const int64_t at = int64_t(r) * k_max;
  const int k = phase.k;
  if (forms.f32) std::memcpy(f32 + at, x, k * sizeof(float));
  if (forms.q8) kernels.quantize(x, k, Precision::Q8, q8 + at, nullptr, scale8 + at / kGroup, sum8 + at / kLanes);
  if (forms.q16) kernels.quantize(x, k, Precision::Q16, lo + at, hi + at, scale16 + at / kGroup, sum16 + at / kLanes);
}

// What a batch means for the phases: the sequence and the role of each row, and attention cut into
// items of one role.
struct Item {
  int seq, head, row, rows;
  bool tiled;
  int part = -1, split = -1;  // one part of a long row, and which Split it belongs to
};
// A row whose parts are computed apart: who finishes the last one merges them.
struct Split {
  int parts;
  int64_t at;  // in Step::partials
};

struct Program::Step {
  const Batch& batch;
  KvCache& kv;
  float* logits;
  std::vector<int> seq_of_row;
  std::vector<int> order;  // rows: tiled ones (of prompts, where there are tiles), then the others
  int tiled = 0;
  std::vector<Item> items;                  // costliest first
  std::vector<std::atomic<int>> next_item;  // one counter a layer
  std::vector<Split> splits;
  std::vector<std::atomic<int>> finished;  // parts of each split
  std::vector<float> partials;

  Step(const Batch& b, KvCache& cache, float* out, const Shape& shape, bool tiles)
      : batch(b), kv(cache), logits(out), seq_of_row(b.rows), next_item(shape.layers) {
    for (int s = 0; s < b.seqs; s++) {
      const int begin = b.row_splits[s], end = b.row_splits[s + 1];
      const int prompt = tiles ? std::clamp(b.prompt_len[s] - b.past[s], 0, end - begin) : 0;
      std::fill(seq_of_row.begin() + begin, seq_of_row.begin() + end, s);
      for (int r = begin; r < begin + prompt; r++) order.push_back(r);
      tiled += prompt;
      cut(s, begin, end, tiles, shape);
    }
    for (int s = 0; s < b.seqs; s++)
      for (int r = b.row_splits[s]; r < b.row_splits[s + 1]; r++)
        if (!tiles || b.positions[r] >= b.prompt_len[s]) order.push_back(r);
    const auto keys = [&](const Item& x) { return x.part >= 0 ? kPart : int64_t(b.positions[x.row] + 1) * x.rows; };
    std::stable_sort(items.begin(), items.end(), [&](const Item& x, const Item& y) { return keys(x) > keys(y); });
    finished = std::vector<std::atomic<int>>(splits.size());
    for (auto& counter : finished) counter.store(0, std::memory_order_relaxed);
    for (auto& counter : next_item) counter.store(0, std::memory_order_relaxed);
  }

  // Rows [begin, end) of sequence s as items: tiled ones, of whatever role, end with a window of
  // kWindow positions.
  void cut(int s, int begin, int end, bool tiled, const Shape& shape) {
    for (int r = begin, n; r < end; r += n) {
      n = std::min(tiled ? kWindow - batch.positions[r] % kWindow : kItemRows, end - r);
      for (int head = 0; head < shape.kv_heads; head++) add_item({s, head, r, n, tiled}, shape);
    }
  }

  // A single row over many keys becomes an item for each part, so that all threads can help.
  void add_item(Item item, const Shape& shape) {
    const int parts = batch.positions[item.row] / kPart + 1;
    if (item.rows > 1 || parts == 1) return items.push_back(item);
    item.split = int(splits.size());
    for (item.part = 0; item.part < parts; item.part++) items.push_back(item);
    splits.push_back({parts, int64_t(partials.size())});
    partials.resize(partials.size() + partial_step(shape) * parts);
  }
  static int64_t partial_step(const Shape& shape) {
    return int64_t(shape.heads / shape.kv_heads) * partial_floats(shape.head_dim);
  }
  const int32_t* pages_of(int row) const { return batch.page_table + int64_t(seq_of_row[row]) * batch.max_pages; }
};

// One worker's walk.
struct Worker {
  Program& p;
  Program::Step& step;
  Program::Scratch& scratch;
  const int id;
  const Kernels& kernels = p.kernels_;

  static void entry(void* context, int id) {
    auto& [program, step] = *static_cast<std::pair<Program*, Program::Step*>*>(context);
    Worker{*program, *step, *program->scratch_[id], id}.walk();
  }

  void walk() noexcept {
    auto last = std::chrono::steady_clock::now();
    if (kernels.tiles) kernels.tiles->begin();
    for (size_t i = 0; i < p.phases_.size(); i++) {
      const Phase& phase = p.phases_[i];
      run(phase);
      p.team_.barrier();
      if (id) continue;
      const auto now = std::chrono::steady_clock::now();
      p.times_[i] += std::chrono::duration_cast<std::chrono::nanoseconds>(now - last).count();
      last = now;
    }
    if (kernels.tiles) kernels.tiles->end();
  }

  int count(const Phase& phase) const { return phase.out_rows ? step.batch.outs : step.batch.rows; }
  std::pair<int, int> share(int n) const {
    const int threads = p.threads();
    return {int(int64_t(n) * id / threads), int(int64_t(n) * (id + 1) / threads)};
  }

  void run(const Phase& phase) {
    switch (phase.kind) {
      case Phase::Angles: return angles(phase);
      case Phase::Embed: return embed(phase);
      case Phase::Linear: return linear(phase);
      case Phase::Attention: return attention(phase);
      case Phase::Rows: return rows(phase);
      case Phase::Store: return store(phase);
    }
  }

  void angles(const Phase& phase) {
    const auto [begin, end] = share(step.batch.rows);
    const int half = int(phase.inv_freq.size());
    for (int r = begin; r < end; r++)
      for (int i = 0; i < half; i++) {
        const float angle = float(step.batch.positions[r]) * phase.inv_freq[i];
        p.row(phase.out, r)[i] = std::cos(angle);
        p.row(phase.out, r)[half + i] = std::sin(angle);
      }
  }

  void embed(const Phase& phase) {
    const auto [begin, end] = share(step.batch.rows);
    const Weight& w = phase.embedding;
    for (int r = begin; r < end; r++)
      gather_column(w.format, w.packed, w.k, step.batch.input_ids[r], p.row(phase.out, r));
  }

  // Of the rows of a linear phase, in the order of the step, the first tiled(phase) are tiled.
  int tiled(const Phase& phase) const { return phase.out_rows ? 0 : step.tiled; }
  int batch_row(const Phase& phase, int i) const { return phase.out_rows ? i : step.order[i]; }
  // The rows of a linear phase in the forms its products read. Few rows: every thread prepares
  // them all for itself, which is cheaper than a barrier. Many: dealt out, then a barrier.
  const RowStore& load(const Phase& phase, RowStore& shared) {
    const int total = count(phase), prompts = tiled(phase);
    const bool few = total <= 4;
    RowStore& to = few ? scratch.few : shared;
    auto [begin, end] = few ? std::pair{0, total} : share(total);
    if (phase.is_packed) begin = std::clamp(prompts, begin, end);
    for (int i = begin, n; i < end; i += n) {
      n = i < prompts ? std::min({16 - i % 16, end - i, prompts - i}) : 1;  // rows of one tile
      const Forms& forms = i < prompts ? phase.prompt_forms : phase.reply_forms;
      const auto [x, stride] = inputs(phase, i, n);
      if (forms.tiles) kernels.tiles->pack(x, stride, phase.k, i, n, prompts, to.tiles);
      for (int r = 0; r < n; r++) to.prepare(kernels, phase, forms, i + r, x + r * stride);
    }
    if (!few) p.team_.barrier();
    return to;
  }

  // n rows from the i-th on, up to 16, normed if the phase norms: where, and how far apart.
  std::pair<const float*, int64_t> inputs(const Phase& phase, int i, int n) {
    const auto source = [&](int j) {
      const int r = batch_row(phase, j);
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

  struct Result {
    float* y;  // rows of one unit, with their bias
    int64_t stride;
  };

  // The products of one pass over units [first, end) of a phase: their prompt rows wait in
  // scratch.sums(set, ..) for their row ops.
  struct Pass {
    const Phase* phase = nullptr;
    int first = 0, end = 0, set = 0;
    int unit = 0, row = 0;  // what is next to be finished
    const Product& product() const { return phase->products[phase->units[first].product]; }
    const Product* partner() const { return product().partner >= 0 ? &phase->products[product().partner] : nullptr; }
  };
  Pass waiting{};

  // Of the rows of a product those before `tiled` go over tiles; partners go the same way (Program::tiled).
  int tiled(const Phase& phase, const Product& product) const { return p.tiled(phase, product) ? tiled(phase) : 0; }
  static int panel_end(const Unit& unit) { return (unit.column + unit.columns + kPanel - 1) / kPanel; }

  // One past the last of the units that share a pass with unit u: while rows do not stay in the
  // second-level cache, they are read once for many panels.
  int pass_end(const Phase& phase, int u) const {
    const Unit& first = phase.units[u];
    int end = u + 1;
    if (tile_input_bytes(tiled(phase), phase.k) <= kNearRows) return end;
    for (; end < phase.first_unit[id + 1] && phase.units[end].product == first.product; end++)
      if ((panel_end(phase.units[end]) - first.column / kPanel) * tile_floats(tiled(phase)) * 4 > kNearSums) break;
    return end;
  }

  void linear(const Phase& phase) {
    if (count(phase) == 0) return;  // a chunk of a prompt that wants no logits skips the head
    const RowStore& x = load(phase, *p.shared_rows_);
    const uint8_t* a = phase.is_packed ? p.shared_rows_->next_tiles : x.tiles;
    for (int u = phase.first_unit[id], set = 0; u < phase.first_unit[id + 1]; set ^= 1) {
      const Pass pass{&phase, u, tiled(phase) ? pass_end(phase, u) : u + 1, set, u, 0};
      const Product* partner = pass.partner();
      multiply_tiled(pass, pass.product(), a, 0);
      if (partner) multiply_tiled(pass, *partner, a, 1);
      finish_waiting();
      for (int i = u; i < pass.end; i++) finish_plain(pass, i, x);
      waiting = pass;
      u = pass.end;
    }
    finish_waiting();
  }

  // All prompt rows against the panels of a pass; meanwhile the pass before is finished.
  void multiply_tiled(const Pass& pass, const Product& product, const uint8_t* a, int which) {
    const Phase& phase = *pass.phase;
    if (!tiled(phase, product)) return;
    const Weight& w = product.weight;
    const int from = phase.units[pass.first].column / kPanel, to = panel_end(phase.units[pass.end - 1]);
    const auto at = [&](int panel) { return w.packed + panel * w.panel_bytes; };
    // A pass and its partner share the work that waits.
    const int64_t share = waiting_pieces() / (pass.partner() && which == 0 ? 2 : 1);
    const Meanwhile meanwhile{[](void* worker) { static_cast<Worker*>(worker)->finish_next(); }, this, share};
    p.tiled(phase,
            product)({at(from), w.panel_bytes, to - from, next_panel(pass, product, which), w.k, TileChunks(phase.k), a,
                      tiled(phase), scratch.sums(pass.set, which), scratch.tile_linear.data(), meanwhile});
  }

  // The first panel of the pass that follows, if it is unpacked in the same way.
  const uint8_t* next_panel(const Pass& pass, const Product& product, int which) const {
    const Phase& phase = *pass.phase;
    const bool to_partner = pass.partner() && which == 0;
    if (!to_partner && pass.end == phase.first_unit[id + 1]) return nullptr;
    const Unit& unit = phase.units[to_partner ? pass.first : pass.end];
    const Product& next = to_partner ? *pass.partner() : phase.products[unit.product];
    if (next.weight.format != product.weight.format || next.weight.k != product.weight.k) return nullptr;
    return next.weight.packed + unit.column / kPanel * next.weight.panel_bytes;
  }

  int64_t waiting_pieces() const {
    if (!waiting.phase) return 0;
    const int rows = tiled(*waiting.phase, waiting.product()), pieces = (rows + kPieceRows - 1) / kPieceRows;
    return int64_t(waiting.end - waiting.unit) * pieces - waiting.row / kPieceRows;
  }

  // Some more rows of one more unit.
  void finish_next() {
    const Phase& phase = *waiting.phase;
    const int rows = tiled(phase, waiting.product());
    finish_tiled(waiting, phase.units[waiting.unit], waiting.row, std::min(kPieceRows, rows - waiting.row));
    waiting.row += kPieceRows;
    if (waiting.row >= rows) waiting.row = 0, waiting.unit++;
  }
  void finish_waiting() {
    while (waiting_pieces() > 0) finish_next();
    waiting.phase = nullptr;
  }

  void finish_tiled(const Pass& pass, const Unit& unit, int first, int n) {
    const int panel = (unit.column - pass.phase->units[pass.first].column) / kPanel, rows = tiled(*pass.phase);
    if (pass.phase->packs_next) {
      const TileStep step(TileChunks(pass.product().weight.n), rows, unit.column / 32);
      const int64_t at = panel * tile_floats(rows);
      return kernels.tiles->silu({scratch.sums(pass.set, 0) + at, scratch.sums(pass.set, 1) + at,
                                  p.shared_rows_->next_tiles + step.at, step.block_bytes, first, n});
    }
    const bool whole = unit.columns % kPanel == 0;  // results are written in whole vectors
    const auto take = [&](const Product& product, int which) {
      const float* bias = product.bias.empty() || !whole ? nullptr : product.bias.data() + unit.column;
      const int64_t stride = whole ? unit.columns : p.max_unit_;
      return TileResult{scratch.sums(pass.set, which) + panel * tile_floats(rows),
                        rows,
                        first,
                        n,
                        unit.columns,
                        bias,
                        nullptr,
                        0,
                        scratch.rows(which),
                        stride};
    };
    const Product& product = pass.product();
    if (is_sum(product) && whole && are_neighbours(*pass.phase, first, n)) {
      TileResult result = take(product, 0);
      const int slot = product.epilogue[0].other, r = batch_row(*pass.phase, first);
      result.add = p.row(slot, r) + unit.column, result.add_stride = p.stride_[slot];
      result.y = p.row(product.slot, r) + unit.column, result.stride = p.stride_[product.slot];
      return kernels.tiles->result(result);
    }
    finish(pass, unit, first, n, [&](const Product& one, int which) {
      const TileResult result = take(one, which);
      kernels.tiles->result(result);
      if (!whole) add_bias(one, unit, n, {result.y, result.stride});
      return Result{result.y, result.stride};
    });
  }
  // A product and an addend into a slot: the ends of both halves of a layer.
  static bool is_sum(const Product& product) {
    return product.dest == Product::Slot && product.epilogue.size() == 1 && product.epilogue[0].kind == RowOp::Add;
  }
  bool are_neighbours(const Phase& phase, int first, int n) const {
    return batch_row(phase, first + n - 1) - batch_row(phase, first) == n - 1;
  }

  // The rows that do not go over tiles: a panel is read and they are done.
  void finish_plain(const Pass& pass, int u, const RowStore& x) {
    const Phase& phase = *pass.phase;
    const Unit& unit = phase.units[u];
    const int begin = tiled(phase, pass.product()), n = count(phase) - begin;
    if (n == 0) return;
    multiply_plain(phase, pass.product(), unit, x, scratch.tile(0));
    if (pass.partner()) multiply_plain(phase, *pass.partner(), unit, x, scratch.tile(1));
    finish(pass, unit, begin, n, [&](const Product& product, int which) {
      const Result result{scratch.tile(which), p.max_unit_};
      add_bias(product, unit, n, result);
      return result;
    });
  }

  void add_bias(const Product& product, const Unit& unit, int n, const Result& result) {
    if (product.bias.empty()) return;
    for (int i = 0; i < n; i++) {
      float* y = result.y + i * result.stride;
      kernels.add(y, product.bias.data() + unit.column, unit.columns, y);
    }
  }

  void multiply_plain(const Phase& phase, const Product& product, const Unit& unit, const RowStore& x, float* tile) {
    const Weight& w = product.weight;
    const int begin = tiled(phase, product), rows = count(phase) - begin;
    if (rows <= 0) return;
    for (int c = 0; c < unit.columns; c += kPanel)
      kernels.linear[int(w.format)](w.packed + int64_t((unit.column + c) / kPanel) * w.panel_bytes, w.k,
                                    x.rows.data() + begin, rows, product.precision, tile + c, p.max_unit_,
                                    scratch.unpacked_memory.data());
  }

  // Rows [first, first + n) of a unit as `result` gives them: row ops, destination.
  template <class Get>
  void finish(const Pass& pass, const Unit& unit, int first, int n, const Get& result) {
    const Product& product = pass.product();
    const Result own = result(product, 0);
    const Result other = pass.partner() ? result(*pass.partner(), 1) : Result{nullptr, 0};
    const bool dense = own.stride == unit.columns;  // rows in one piece, as one long row
    for (const RowOp& op : product.epilogue) {
      if (dense && op.kind == RowOp::SiluMul) {
        kernels.silu_mul(own.y, other.y, n * unit.columns, own.y);
        continue;
      }
      for (int i = 0; i < n; i++)
        apply(op, own.y + i * own.stride, other.y + i * other.stride, batch_row(*pass.phase, first + i), unit.column,
              unit.columns);
    }
    for (int i = 0; i < n; i++)
      deliver(product, own.y + i * own.stride, batch_row(*pass.phase, first + i), unit.column, unit.columns);
  }

  // A row op on columns [column, column + columns) of row r, in place.
  void apply(const RowOp& op, float* y, const float* up, int r, int column, int columns) {
    const int H = p.shape.head_dim;
    switch (op.kind) {
      case RowOp::Add: return kernels.add(y, p.row(op.other, r) + column, columns, y);
      case RowOp::SiluMul: return kernels.silu_mul(y, up, columns, y);
      case RowOp::Rope:
        for (int c = 0; c < columns; c += H) kernels.rope(y + c, H, p.row(op.other, r), p.row(op.other, r) + H / 2);
        return;
      case RowOp::Norm:
        for (int c = 0; c < columns; c += op.length)
          kernels.rms_norm(y + c, op.weight.data(), op.length, op.length, op.eps, y + c);
        return;
      case RowOp::Select: return;
    }
  }

  void deliver(const Product& product, const float* y, int r, int column, int columns) {
    float* to = nullptr;
    switch (product.dest) {
      case Product::Slot: to = p.row(product.slot, r) + column; break;
      case Product::Output: to = step.logits + int64_t(r) * p.shape.vocab + column; break;
      case Product::Keys:
      case Product::Values: return store_heads(product.dest, product.layer, y, r, column, columns);
      case Product::Pair: return;
    }
    std::memcpy(to, y, columns * sizeof(float));
  }

  void store_heads(Product::Dest dest, int layer, const float* y, int r, int column, int columns) {
    const int H = p.shape.head_dim, position = step.batch.positions[r];
    const int page = step.pages_of(r)[position / kPage];
    const auto write = dest == Product::Keys ? &KvCache::write_key : &KvCache::write_value;
    for (int c = 0; c < columns; c += H) (step.kv.*write)(layer, page, (column + c) / H, position, y + c);
  }

  void attention(const Phase& phase) {
    const int group = p.shape.heads / p.shape.kv_heads, H = p.shape.head_dim;
    std::atomic<int>& next = step.next_item[phase.layer];
    for (int i; (i = next.fetch_add(1, std::memory_order_relaxed)) < int(step.items.size());) {
      const Item& item = step.items[i];
      const int first = step.batch.positions[item.row];
      const int blocks = (first + item.rows - 1) / kPage + 1;
      for (int b = 0; b < blocks; b++)
        scratch.pages[b] = step.kv.at(phase.layer, step.pages_of(item.row)[b], item.head);
      const int column = item.head * group * H;
      const AttentionItem work{p.row(phase.in, item.row) + column,
                               p.row(phase.out, item.row) + column,
                               p.stride_[phase.in],
                               scratch.pages.data(),
                               item.rows,
                               group,
                               H,
                               first,
                               step.kv.int8,
                               scratch.partials.data(),
                               step.kv.centre(phase.layer, item.head),
                               reinterpret_cast<uint16_t*>(scratch.unpacked_pages.data())};
      if (item.part >= 0) attend_part(item, work);
      else if (item.tiled) kernels.tiles->attention(work, scratch.tile_kernels.data());
      else kernels.attention(work);
    }
  }

  void attend_part(const Item& item, const AttentionItem& work) {
    const Split& split = step.splits[item.split];
    float* parts = step.partials.data() + split.at;
    float* to = parts + item.part * Program::Step::partial_step(p.shape);
    if (item.tiled) kernels.tiles->attention_part(work, item.part, scratch.tile_kernels.data(), to);
    else kernels.attention_part(work, item.part, to);
    std::atomic<int>& finished = step.finished[item.split];
    if (finished.fetch_add(1, std::memory_order_acq_rel) + 1 < split.parts) return;
    finished.store(0, std::memory_order_relaxed);  // for the next layer, behind a barrier
    if (item.tiled) kernels.tiles->attention_merge(work, parts, split.parts);
    else kernels.attention_merge(work, parts, split.parts);
  }

  void rows(const Phase& phase) {
    const auto [begin, end] = share(count(phase));
    const int width = p.width_[phase.out];
    for (int r = begin; r < end; r++) {
      const float* x = p.row(phase.in, phase.op.kind == RowOp::Select ? step.batch.out_rows[r] : r);
      float* y = p.row(phase.out, r);
      if (x != y) std::memcpy(y, x, width * sizeof(float));
      apply(phase.op, y, phase.op.other >= 0 ? p.row(phase.op.other, r) : nullptr, r, 0, width);
    }
  }

  void store(const Phase& phase) {
    const auto [begin, end] = share(step.batch.rows);
    for (int r = begin; r < end; r++)
      store_heads(phase.dest, phase.layer, p.row(phase.in, r), r, 0, p.width_[phase.in]);
  }
};

void Program::step(const Batch& batch, KvCache& kv, float* logits) {
  if (getpid() != owner_)
    throw std::logic_error("this model was loaded before a fork: load it in the process that uses it");
  std::lock_guard lock(one_step_);
  check(batch, kv);
  Step state(batch, kv, logits, shape, kernels_.tiles != nullptr);
  for (auto& scratch : scratch_) scratch->pages.resize(batch.max_pages);  // nothing allocates inside
  std::pair<Program*, Step*> context{this, &state};
  team_.run(Worker::entry, &context);
}

}  // namespace qwell
