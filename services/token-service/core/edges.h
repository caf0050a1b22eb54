// The two edges of the token-service's core: the disk that keeps the grants, the journal that is
// fenced. Implementations: store/token_store.h, grpc/journal_client.h, and fakes in tests.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "services/common/types/numbers.h"
#include "services/token-service/core/token_table.h"

namespace intermezzo::token {

// The durable part of a token.
struct GrantRow {
  uint64_t collection_uid = 0;
  Epoch epoch;
  // Nobody where it is free.
  Holder holder;
  // What the holder was promised at most.
  absl::Duration lease;
};

// Keeps the grants. Called by one thread at a time; may block on the disk.
class GrantLog {
 public:
  virtual ~GrantLog() = default;
  // All rows, in order, durable when it returns OK; none or some of them otherwise.
  virtual absl::Status WriteGrants(const std::vector<GrantRow>& rows) = 0;
};

// What a fence came to.
struct FenceResult {
  absl::Status status;
  Seq head_seq;
  // The journal's epoch where it refused because that is higher.
  Epoch known;
};

// The journals' administration. Never blocks; each callback is called exactly once, on any thread,
// perhaps before the call returns. Bounds every call in time (UNAVAILABLE, DEADLINE_EXCEEDED).
class JournalControl {
 public:
  using Done = std::function<void(const absl::Status&)>;
  virtual ~JournalControl() = default;
  virtual void Fence(const std::string& collection, Epoch epoch,
                     std::function<void(const FenceResult&)> done) = 0;
  virtual void CreateJournal(const std::string& collection, uint64_t uid, absl::Duration retention,
                             Done done) = 0;
  virtual void DeleteJournal(const std::string& collection, Done done) = 0;
};

}  // namespace intermezzo::token
