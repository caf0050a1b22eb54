// The server's three parts in the simulated world: the real token table, the real journal decisions
// (in memory), the real replica progress; disk, network and restarts are simulated around them.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "services/forwarder-service/core/replica_progress.h"
#include "services/journal-service/memory/memory_journal.h"
#include "services/token-service/core/token_table.h"
#include "tests/simulation/checker.h"
#include "tests/simulation/world.h"

namespace intermezzo::simulation {

inline constexpr char kCollection[] = "www";

class SimServer {
 public:
  using GrantDone = std::function<void(absl::StatusOr<token::Grant>)>;

  SimServer(World& world, Checker& checker);

  // ---- token-service (called at the server's place) --------------------------------------------
  void Acquire(Place from, const token::Holder& holder, uint64_t call, GrantDone done);
  void CancelAcquire(Place from, uint64_t call);
  absl::StatusOr<token::Renewal> Renew(const token::Holder& holder, Epoch epoch);
  absl::Status Release(const token::Holder& holder, Epoch epoch);
  // Recalls for a node go here, until it says otherwise.
  void WatchRecalls(const token::Holder& holder, std::function<void(Epoch)> sink);

  // ---- journal-service -------------------------------------------------------------------------
  absl::StatusOr<journal::Confirmation> Append(Ordinal ordinal, Epoch epoch, uint64_t previous,
                                               std::vector<record::v1::Entry> entries);
  Seq head() const { return journal_->State().head; }

  // ---- forwarder-service -----------------------------------------------------------------------
  struct Batch {
    std::vector<record::v1::Entry> entries;
    Seq head;
  };
  void Subscribe(Place from, const StreamPtr& stream, Seq cursor,
                 std::function<void(Batch)> deliver);
  void Ack(Place from, const StreamPtr& stream, Seq seq);

  void RestartTokenService();
  void RestartForwarder();

 private:
  struct Subscriber {
    explicit Subscriber() : progress(forwarder::Window{4096, 16}, absl::Seconds(10)) {}
    forwarder::ReplicaProgress progress;
    StreamPtr stream;
    forwarder::StreamId id = 0;
    std::function<void(Batch)> deliver;
  };
  absl::Time Now() const { return absl::UnixEpoch() + world_.now(); }
  void Carry(token::Actions actions);
  void ArmTokenTimer();
  void Pump(Subscriber& subscriber, bool heartbeat = false);
  void Heartbeat();

  World& world_;
  Checker& checker_;
  std::shared_ptr<journal::Journal> journal_;
  journal::MemoryJournalStore journals_;

  std::unique_ptr<token::TokenTable> table_;
  uint64_t token_incarnation_ = 0;
  // Durable: the last grant that reached the disk.
  Epoch durable_epoch_;
  token::Holder durable_holder_;
  absl::Duration disk_until_;
  token::RequestId next_request_ = 1;
  std::map<token::RequestId, GrantDone> waiting_;
  std::map<std::pair<Place, uint64_t>, token::RequestId> calls_;
  std::map<std::string, std::function<void(Epoch)>> recall_sinks_;

  forwarder::StreamId next_stream_ = 1;
  std::map<Place, Subscriber> subscribers_;
};

}  // namespace intermezzo::simulation
