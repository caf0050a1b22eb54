// Resolves conflicts by services/adr/0003-keep-both.md: pending records become a queue, the tree
// goes back to the server's state, the queue is replayed on it. Every step is durable before the
// next, so a restart goes on (Resume).
//
// Owned by the hosted replica; Resolve and Resume are called by the thread that applies. Local
// writers wait meanwhile; readers do not.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "services/sidecar/reconcile/conflict_store.h"
#include "services/sidecar/reconcile/server_state.h"
#include "services/sidecar/session/conflict_resolver.h"

namespace intermezzo::sidecar {

class Presto;

class KeepBoth final : public ConflictResolver {
 public:
  struct Options {
    // Where the conflict store is.
    std::string store_dir;
    // A connection to the server's state, for one attempt.
    std::function<std::unique_ptr<ServerState>()> server;
    // Told what becomes stale; null where nothing is mounted.
    Presto* presto = nullptr;
    // Waits before the next attempt; an error (the session stops) ends it.
    std::function<absl::Status(absl::Duration)> wait;
    // Why it cannot go on now; OK when it can again. May be empty.
    std::function<void(const absl::Status&)> hindered;
    // A record met a conflict of this kind. May be empty.
    std::function<void(const std::string& kind)> conflict;
  };
  explicit KeepBoth(Options options) : options_(std::move(options)) {}

  // CANCELLED: `wait` said so; the gate stays paused, and a restart resumes. Other errors are for
  // good.
  absl::Status Resolve(Seq at_least, const absl::Status& why, Replica& replica) override;
  // Ends what a stop or a crash broke off. Before anything is applied or appended.
  absl::Status Resume(Replica& replica) override;

 private:
  absl::Status Drain(Replica& replica);
  absl::Status Queue(Replica& replica, ConflictStore& store);
  absl::Status Finish(Replica& replica, ConflictStore& store, Seq at_least);

  const Options options_;
};

}  // namespace intermezzo::sidecar
