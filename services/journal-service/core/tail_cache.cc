#include "services/journal-service/core/tail_cache.h"

#include <utility>

namespace intermezzo::journal {

bool ReadBudget::Take(const StoredEntry& entry) {
  size_t size = entry.entry.record().size();
  if (!options_.Skips(entry.version)) size += entry.entry.payload_length();
  if (records_ > 0 && (bytes_ + size > options_.max_bytes || records_ >= options_.max_records)) {
    return false;
  }
  bytes_ += size;
  ++records_;
  return true;
}

void TailCache::Push(EntryPtr entry) {
  bytes_ += entry->bytes() + kOverhead;
  entries_.push_back(std::move(entry));
  while (bytes_ > max_bytes_ && !entries_.empty()) {
    bytes_ -= entries_.front()->bytes() + kOverhead;
    entries_.pop_front();
  }
}

void TailCache::Clear() {
  entries_.clear();
  bytes_ = 0;
}

bool TailCache::Read(Seq from, const ReadOptions& options, std::vector<EntryPtr>& out) const {
  if (entries_.empty()) return false;
  const uint64_t first = entries_.front()->entry.seq();
  if (from.value() < first || from.value() >= first + entries_.size()) return false;
  ReadBudget budget(options);
  for (size_t i = from.value() - first; i < entries_.size(); ++i) {
    if (!budget.Take(*entries_[i])) break;
    out.push_back(entries_[i]);
  }
  return true;
}

EntryPtr TailCache::At(Seq seq) const {
  if (entries_.empty()) return nullptr;
  const uint64_t first = entries_.front()->entry.seq();
  if (seq.value() < first || seq.value() >= first + entries_.size()) return nullptr;
  return entries_[seq.value() - first];
}

}  // namespace intermezzo::journal
