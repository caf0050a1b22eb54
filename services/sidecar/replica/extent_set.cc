#include "services/sidecar/replica/extent_set.h"

#include <algorithm>
#include <iterator>
#include <limits>

namespace intermezzo::sidecar {

void ExtentSet::Add(uint64_t offset, uint64_t length, bool sparse) {
  if (length == 0) return;
  length = std::min(length, std::numeric_limits<uint64_t>::max() - offset);
  uint64_t begin = offset;
  uint64_t end = offset + length;
  uint64_t written = sparse ? 0 : length;
  auto it = extents_.upper_bound(begin);
  if (it != extents_.begin() && std::prev(it)->second.end >= begin) --it;
  bool merged_sparse = sparse;
  while (it != extents_.end() && it->first <= end) {
    // What a dense range covers wholly is dense.
    const bool covered = !sparse && it->first >= offset && it->second.end <= offset + length;
    if (!covered) {
      merged_sparse |= it->second.sparse;
      written += it->second.written;
    }
    begin = std::min(begin, it->first);
    end = std::max(end, it->second.end);
    bytes_ -= it->second.written;
    it = extents_.erase(it);
  }
  written = std::min(written, end - begin);
  extents_[begin] = {end, written, merged_sparse};
  bytes_ += written;
  if (extents_.size() > kMaxExtents) MergeClosest();
}

void ExtentSet::MergeClosest() {
  auto best = extents_.begin();
  uint64_t best_gap = std::numeric_limits<uint64_t>::max();
  for (auto it = extents_.begin(), next = std::next(it); next != extents_.end(); it = next++) {
    const uint64_t gap = next->first - it->second.end;
    if (gap < best_gap) {
      best_gap = gap;
      best = it;
    }
  }
  auto second = std::next(best);
  best->second = {second->second.end, best->second.written + second->second.written, true};
  extents_.erase(second);
}

std::vector<ExtentSet::Extent> ExtentSet::Take(uint64_t max_bytes) {
  std::vector<Extent> taken;
  while (max_bytes > 0 && !extents_.empty()) {
    const auto [begin, rest] = *extents_.begin();
    extents_.erase(extents_.begin());
    bytes_ -= rest.written;
    const uint64_t length = rest.end - begin;
    if (rest.sparse || length <= max_bytes) {
      taken.push_back({begin, length, rest.sparse});
      if (rest.sparse) break;
      max_bytes -= length;
      continue;
    }
    taken.push_back({begin, max_bytes, false});
    extents_[begin + max_bytes] = {rest.end, length - max_bytes, false};
    bytes_ += length - max_bytes;
    break;
  }
  return taken;
}

}  // namespace intermezzo::sidecar
