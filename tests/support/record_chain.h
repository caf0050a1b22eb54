// A journal in memory for tests of replicas: numbers and chains what it is given, checks nothing.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "services/sidecar/replica/replica.h"

namespace intermezzo::tests {

// The object table, one line an object: kind, versions, names with theirs. Equal on replicas that
// have applied the same.
std::vector<std::string> TableOf(const sidecar::Replica& replica);

class RecordChain {
 public:
  // Appends the records that `origin` has made since the last call (its dirty bytes are cut first).
  void Pull(sidecar::Replica& origin);
  // Numbers, chains and appends one entry.
  const record::v1::Entry& Append(record::v1::Entry entry);
  // The entry after the replica's cursor, as the forwarder would send it (own ones have no
  // payload); nullptr: there is none.
  std::unique_ptr<record::v1::Entry> NextFor(const sidecar::Replica& replica) const;
  // Applies what follows the replica's cursor; stops at the first error.
  absl::Status Feed(sidecar::Replica& replica) const;

  const std::vector<record::v1::Entry>& entries() const { return entries_; }

 private:
  std::vector<record::v1::Entry> entries_;
  std::map<uint64_t, uint64_t> pulled_;  // by ordinal: last origin seq
};

}  // namespace intermezzo::tests
