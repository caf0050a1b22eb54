// The token table with its threads: one lock, one writer that makes grants durable (all that are
// waiting in one synced write), one timer. Nothing here waits for the network, and callers of
// Acquire wait as callbacks, not as threads.
//
// Owned by the application. All methods from any thread. Callbacks and sinks are called without
// the lock, by whichever thread brought the outcome; they must not block.
// Destruction: first stop whoever calls it (gRPC server, JournalControl), then destroy.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "services/token-service/core/edges.h"
#include "services/token-service/core/monotonic_timer.h"
#include "services/token-service/core/token_table.h"
#include "services/token-service/metrics.h"

namespace intermezzo::token {

// A recall as told to the holder.
struct RecallNotice {
  std::string collection;
  Epoch epoch;
  // Time left to release.
  absl::Duration left;
};

class TokenServer {
 public:
  using AcquireDone = std::function<void(const absl::StatusOr<Grant>&)>;
  using RecallDone = std::function<void(const absl::Status&)>;
  using RecallSink = std::function<void(const RecallNotice&)>;

  // All references outlive the server. `metrics` may be null.
  TokenServer(TokenLimits limits, GrantLog& log, JournalControl& journal, Metrics* metrics);
  // Writes what is waiting.
  ~TokenServer();

  // See TokenTable.
  void AddCollection(const std::string& collection, uint64_t uid, Epoch last);
  void RestoreGrant(const std::string& collection, const GrantRow& row);
  // The last epoch that was used.
  Epoch DropCollection(const std::string& collection);
  void DropNode(const std::string& collection, const std::string& node);

  // `done` is called exactly once. The id is for Cancel.
  RequestId Acquire(const std::string& collection, const Holder& holder, AcquireDone done);
  // `done` gets CANCELLED unless it was called already.
  void Cancel(RequestId request);
  absl::StatusOr<Renewal> Renew(const std::string& collection, const Holder& holder, Epoch epoch);
  absl::Status Release(const std::string& collection, const Holder& holder, Epoch epoch);
  void Recall(const std::string& collection, bool force, Epoch epoch, RecallDone done);
  absl::StatusOr<TokenView> View(const std::string& collection) const;

  // Recalls of the holder's tokens go to `sink`, those already due at once.
  uint64_t Subscribe(const Holder& holder, RecallSink sink);
  // The sink may still be running in another thread.
  void Unsubscribe(uint64_t subscription);

  // Drain: see TokenTable::Stop.
  void Stop();

 private:
  struct Waiting {
    std::string collection;
    absl::Time since;
    AcquireDone acquire;  // or
    RecallDone recall;
  };
  struct Subscriber {
    Holder holder;
    std::shared_ptr<RecallSink> sink;
  };
  // Done after the lock is released.
  using Effects = std::vector<std::function<void()>>;

  void Carry(Actions actions, Effects& effects) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Do(PersistGrant& action, Effects& effects) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Do(Fence& action, Effects& effects) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Do(Grant& action, Effects& effects) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Do(Answer& action, Effects& effects) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Do(SendRecall& action, Effects& effects) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Do(HolderChanged& action, Effects& effects) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Takes a waiting call out; its callbacks are empty where it is gone.
  Waiting Take(RequestId request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Rearm() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Runs an input under the lock and its effects after it.
  template <typename Input>
  void Step(Input input);
  void FenceReturned(const std::string& collection, uint64_t uid, Epoch epoch,
                     const FenceResult& result);
  void WriteLoop();

  const TokenLimits limits_;
  GrantLog& log_;
  JournalControl& journal_;
  Metrics* const metrics_;

  mutable absl::Mutex mu_;
  TokenTable table_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, uint64_t, std::less<>> uids_ ABSL_GUARDED_BY(mu_);
  RequestId next_id_ ABSL_GUARDED_BY(mu_) = 1;
  absl::flat_hash_map<RequestId, Waiting> waiting_ ABSL_GUARDED_BY(mu_);
  std::map<uint64_t, Subscriber> subscribers_ ABSL_GUARDED_BY(mu_);
  // For the writer: the rows, and to what they belong. At most a few per collection.
  std::vector<GrantRow> rows_ ABSL_GUARDED_BY(mu_);
  std::vector<PersistGrant> row_actions_ ABSL_GUARDED_BY(mu_);
  bool closing_ ABSL_GUARDED_BY(mu_) = false;
  absl::Time armed_ ABSL_GUARDED_BY(mu_) = absl::InfiniteFuture();

  std::thread writer_;
  std::unique_ptr<MonotonicTimer> timer_;
};

}  // namespace intermezzo::token
