// Which objects and names the unconfirmed local records touch, to tell in a moment whether a
// forwarded record meets one of them (a conflict).
//
// Owned by the replica, used under its update lock. Rebuilt from the local journal at start.
// Kept as 64 bit hashes: two that collide make a conflict out of nothing, never hide one.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "intermezzo/record/v1/record.pb.h"

namespace intermezzo::sidecar {

class PendingIndex {
 public:
  // Origin seqs are added in ascending order. `bytes`: the serialized record.
  void Add(uint64_t origin_seq, const record::v1::Record& record, std::string_view bytes);
  // True where the pending record of that number has these bytes.
  bool Has(uint64_t origin_seq, std::string_view bytes) const;
  void RemoveThrough(uint64_t origin_seq);
  void Clear();

  // Origin seqs, ascending, of the pending records that `forwarded` meets: one of the same touches;
  // an object or directory that one of them removed or emptied while the other uses it; a name
  // taken from the same object by both.
  std::vector<uint64_t> Meeting(const record::v1::Record& forwarded) const;
  // True where a pending record sets the object's modification time, by whatever it does to it: it
  // comes after what is forwarded now, so that time stays.
  bool SetsMtimeOf(uint64_t object) const;

  bool empty() const { return records_.empty(); }
  size_t size() const { return records_.size(); }
  // Not empty.
  uint64_t first_origin_seq() const { return records_.front().origin_seq; }

 private:
  using Hashes = absl::InlinedVector<size_t, 8>;
  struct Pending {
    uint64_t origin_seq;
    Hashes hashes;
    std::string digest;  // of the record's bytes
  };
  // What a record leaves in the index.
  static Hashes Marks(const record::v1::Record& record);
  // What a forwarded record looks for in it.
  static Hashes Questions(const record::v1::Record& record);

  std::deque<Pending> records_;
  absl::flat_hash_map<size_t, uint32_t> counts_;
};

}  // namespace intermezzo::sidecar
