// One step: every worker walks the phases; a barrier ends each.
#include <chrono>
#include <cmath>
#include <mutex>
#include <stdexcept>

#include "worker.h"

namespace qwell {

void Program::step(const Batch& batch, KvCache& kv, float* logits) {
  if (!team_.is_here())
    throw std::logic_error("this model was loaded before a fork: load it in the process that uses it");
  std::lock_guard lock(one_step_);
  check(batch, kv);
  Step state(batch, kv, logits, shape, kernels_.tiled_attention != nullptr);
  for (auto& scratch : scratch_) scratch->pages.resize(batch.max_pages);  // nothing allocates inside
  std::pair<Program*, Step*> context{this, &state};
  team_.run(Worker::entry, &context);
}

void Worker::entry(void* context, int id) {
  auto& [program, step] = *static_cast<std::pair<Program*, Program::Step*>*>(context);
  Worker{*program, *step, *program->scratch_[id], id}.walk();
}

void Worker::walk() noexcept {
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

void Worker::run(const Phase& phase) {
  switch (phase.kind) {
    case Phase::Angles: return angles(phase);
    case Phase::Embed: return embed(phase);
    case Phase::Linear: return linear(phase);
    case Phase::Attention: return attention(phase);
    case Phase::Rows: return rows(phase);
    case Phase::Store: return store(phase);
  }
}

void Worker::angles(const Phase& phase) {
  const auto [begin, end] = share(step.batch.rows);
  const int half = int(phase.inv_freq.size());
  for (int r = begin; r < end; r++)
    for (int i = 0; i < half; i++) {
      const float angle = float(step.batch.positions[r]) * phase.inv_freq[i];
      p.row(phase.out, r)[i] = std::cos(angle);
      p.row(phase.out, r)[half + i] = std::sin(angle);
    }
}

void Worker::embed(const Phase& phase) {
  const auto [begin, end] = share(step.batch.rows);
  const Weight& w = phase.embedding;
  for (int r = begin; r < end; r++)
    gather_column(w.format, w.packed, w.k, step.batch.input_ids[r], p.row(phase.out, r));
}

void Worker::attention(const Phase& phase) {
  const int group = p.shape.heads / p.shape.kv_heads, H = p.shape.head_dim;
  std::atomic<int>& next = step.next_item[phase.layer];
  for (int i; (i = next.fetch_add(1, std::memory_order_relaxed)) < int(step.items.size());) {
    const Item& item = step.items[i];
    const int first = step.batch.positions[item.row];
    const int blocks = (first + item.rows - 1) / kPage + 1;
    for (int b = 0; b < blocks; b++) scratch.pages[b] = step.kv.at(phase.layer, step.pages_of(item.row)[b], item.head);
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
    else if (item.tiled) kernels.tiled_attention->whole(work, scratch.tile_kernels.data());
    else kernels.attention(work);
  }
}

void Worker::attend_part(const Item& item, const AttentionItem& work) {
  const Split& split = step.splits[item.split];
  float* parts = step.partials.data() + split.at;
  float* to = parts + item.part * Program::Step::partial_step(p.shape);
  if (item.tiled) kernels.tiled_attention->part(work, item.part, scratch.tile_kernels.data(), to);
  else kernels.attention_part(work, item.part, to);
  std::atomic<int>& finished = step.finished[item.split];
  if (finished.fetch_add(1, std::memory_order_acq_rel) + 1 < split.parts) return;
  finished.store(0, std::memory_order_relaxed);  // for the next layer, behind a barrier
  if (item.tiled) kernels.tiled_attention->merge(work, parts, split.parts);
  else kernels.attention_merge(work, parts, split.parts);
}

void Worker::rows(const Phase& phase) {
  const auto [begin, end] = share(count(phase));
  const int width = p.width_[phase.out];
  for (int r = begin; r < end; r++) {
    const float* x = p.row(phase.in, phase.op.kind == RowOp::Select ? step.batch.out_rows[r] : r);
    float* y = p.row(phase.out, r);
    if (x != y) std::memcpy(y, x, width * sizeof(float));
    apply(phase.op, y, phase.op.other >= 0 ? p.row(phase.op.other, r) : nullptr, r, 0, width, y);
  }
}

void Worker::store(const Phase& phase) {
  const auto [begin, end] = share(step.batch.rows);
  for (int r = begin; r < end; r++) store_heads(phase.dest, phase.layer, p.row(phase.in, r), r, 0, p.width_[phase.in]);
}

}  // namespace qwell
