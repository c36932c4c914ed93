// What a batch means for the phases of a step: the sequence and the role of each row, and attention
// cut into items of one role.
#pragma once

#include <algorithm>
#include <atomic>
#include <vector>

#include "scratch.h"

namespace qwell {

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
  std::vector<int>
      order;  // rows: those of prompts where attention is tiled, which may go over tiles or pairs, then the others
  int tiled = 0;
  std::vector<Item> items;                  // costliest first
  std::vector<std::atomic<int>> next_item;  // one counter a layer
  std::vector<Split> splits;
  std::vector<std::atomic<int>> finished;  // parts of each split
  std::vector<float> partials;

  Step(const Batch& b, KvCache& cache, float* out, const Shape& shape, bool is_tiled)
      : batch(b), kv(cache), logits(out), seq_of_row(b.rows), next_item(shape.layers) {
    for (int s = 0; s < b.seqs; s++) {
      const int begin = b.row_splits[s], end = b.row_splits[s + 1];
      const int prompt = is_tiled ? std::clamp(b.prompt_len[s] - b.past[s], 0, end - begin) : 0;
      std::fill(seq_of_row.begin() + begin, seq_of_row.begin() + end, s);
      for (int r = begin; r < begin + prompt; r++) order.push_back(r);
      tiled += prompt;
      cut(s, begin, end, is_tiled, shape);
    }
    for (int s = 0; s < b.seqs; s++)
      for (int r = b.row_splits[s]; r < b.row_splits[s + 1]; r++)
        if (!is_tiled || b.positions[r] >= b.prompt_len[s]) order.push_back(r);
    const auto keys = [&](const Item& x) {
      const int64_t all = b.positions[x.row] + 1;
      return x.part >= 0 ? std::min<int64_t>(kPart, all - x.part * kPart) : all * x.rows;
    };
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
      add_items({s, 0, r, n, tiled}, shape);
    }
  }

  // Of every head one. A single row over many keys becomes an item for each part, so that all threads can help, the
  // heads by turns: who takes the next item finds its first page asked for by the part before.
  void add_items(Item item, const Shape& shape) {
    const int parts = batch.positions[item.row] / kPart + 1, first = int(splits.size());
    if (item.rows > 1 || parts == 1) {
      for (item.head = 0; item.head < shape.kv_heads; item.head++) items.push_back(item);
      return;
    }
    for (int head = 0; head < shape.kv_heads; head++) {
      splits.push_back({parts, int64_t(partials.size())});
      partials.resize(partials.size() + partial_step(shape) * parts);
    }
    for (item.part = 0; item.part < parts; item.part++)
      for (item.head = 0; item.head < shape.kv_heads; item.head++) {
        item.split = first + item.head;
        items.push_back(item);
      }
  }
  static int64_t partial_step(const Shape& shape) {
    return int64_t(shape.heads / shape.kv_heads) * partial_floats(shape.head_dim);
  }
  const int32_t* pages_of(int row) const { return batch.page_table + int64_t(seq_of_row[row]) * batch.max_pages; }
};

}  // namespace qwell
