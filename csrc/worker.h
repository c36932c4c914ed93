// One worker's walk through a step: what it knows, and what its phases share. The phases themselves
// are in step.cpp, those with matrices in step_linear.cpp.
#pragma once

#include <cassert>

#include <cstring>
#include <utility>

#include "step_plan.h"

namespace qwell {

struct Worker {
  Program& p;
  Program::Step& step;
  Program::Scratch& scratch;
  const int id;
  const Kernels& kernels = p.kernels_;

  static void entry(void* context, int id);  // context: a pair<Program*, Program::Step*>
  void walk() noexcept;
  void run(const Phase& phase);
  void angles(const Phase& phase);
  void embed(const Phase& phase);
  void linear(const Phase& phase);
  void attention(const Phase& phase);
  void rows(const Phase& phase);
  void store(const Phase& phase);

  struct Linear;  // step_linear.cpp
  void attend_part(const Item& item, const AttentionItem& work);

  int count(const Phase& phase) const { return phase.out_rows ? step.batch.outs : step.batch.rows; }
  std::pair<int, int> share(int n) const {
    const int threads = p.threads();
    return {int(int64_t(n) * id / threads), int(int64_t(n) * (id + 1) / threads)};
  }

  // A row op on columns [column, column + columns) of row r: from y to `to`, which is another place only
  // for ops that move (RowOp::moves).
  void apply(const RowOp& op, float* y, const float* up, int r, int column, int columns, float* to) {
    assert(to == y || op.moves());
    const int H = p.shape.head_dim;
    switch (op.kind) {
      case RowOp::Add: return kernels.add(y, p.row(op.other, r) + column, columns, to);
      case RowOp::SiluMul: return kernels.silu_mul(y, up, columns, to);
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

  // Keys or values of whole heads, from `column` on, into the page of row r.
  void store_heads(Product::Dest dest, int layer, const float* y, int r, int column, int columns) {
    const int H = p.shape.head_dim, position = step.batch.positions[r];
    const int page = step.pages_of(r)[position / kPage];
    const auto write = dest == Product::Keys ? &KvCache::write_key : &KvCache::write_value;
    for (int c = 0; c < columns; c += H) (step.kv.*write)(layer, page, (column + c) / H, position, y + c);
  }
};

}  // namespace qwell
