// The most recent entries of a journal in memory, so that live readers need no disk. Bounded in
// bytes; the oldest go first. Not thread-safe: its journal guards it.
#pragma once

#include <cstddef>
#include <deque>
#include <vector>

#include "services/journal-service/core/journal.h"

namespace intermezzo::journal {

// Takes entries into `out` as long as they fit `options`; counts bytes as they will be sent.
class ReadBudget {
 public:
  explicit ReadBudget(const ReadOptions& options) : options_(options) {}
  // False where the entry does not fit; the first one always does.
  bool Take(const StoredEntry& entry);

 private:
  const ReadOptions& options_;
  size_t bytes_ = 0;
  size_t records_ = 0;
};

class TailCache {
 public:
  explicit TailCache(size_t max_bytes) : max_bytes_(max_bytes) {}

  // Entries must follow on what was pushed before.
  void Push(EntryPtr entry);
  void Clear();
  // False where `from` is older than what is kept, or newer than the newest.
  bool Read(Seq from, const ReadOptions& options, std::vector<EntryPtr>& out) const;
  // The entry, or null.
  EntryPtr At(Seq seq) const;
  size_t bytes() const { return bytes_; }

 private:
  // What keeping an entry costs beside its bytes, about.
  static constexpr size_t kOverhead = 256;

  const size_t max_bytes_;
  size_t bytes_ = 0;
  std::deque<EntryPtr> entries_;
};

}  // namespace intermezzo::journal
