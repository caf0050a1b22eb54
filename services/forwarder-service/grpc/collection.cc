#include "services/forwarder-service/grpc/collection.h"

#include "absl/strings/str_cat.h"
#include "services/forwarder-service/grpc/journal_tail.h"

namespace intermezzo::forwarder {
namespace {

constexpr size_t kMaxWaiters = 10'000;

}  // namespace

Collection::Collection(std::string name, uint64_t uid, const Options& options)
    : name_(std::move(name)),
      uid_(uid),
      options_(options),
      tail_(std::make_shared<JournalTail>()),
      progress_(options.window, options.silent_after) {}

bool Collection::Has(const std::string& node) const {
  absl::MutexLock lock(&mu_);
  return progress_.replicas().contains(node);
}

void Collection::SetReplicas(const std::set<std::string>& nodes) {
  std::vector<std::weak_ptr<ReplicaStream>> gone;
  std::vector<std::function<void(const absl::Status&)>> satisfied;
  {
    absl::MutexLock lock(&mu_);
    for (const std::string& node : progress_.SetReplicas(nodes)) {
      counters_.erase(node);
      if (auto stream = streams_.extract(node)) gone.push_back(stream.mapped().stream);
    }
    satisfied = TakeSatisfied();
  }
  for (auto& weak : gone) {
    if (auto stream = weak.lock()) {
      stream->Close(absl::FailedPreconditionError(
          absl::StrCat("the replica is no longer registered for collection ", name_)));
    }
  }
  for (auto& done : satisfied) done(absl::OkStatus());
}

void Collection::EndStrangers(const Incarnations& registered) {
  std::vector<std::pair<std::weak_ptr<ReplicaStream>, absl::Status>> strangers;
  {
    absl::MutexLock lock(&mu_);
    for (const auto& [node, entry] : streams_) {
      absl::Status status =
          CheckIncarnation(registered, node, entry.self.instance, entry.self.ordinal);
      if (!status.ok()) strangers.emplace_back(entry.stream, std::move(status));
    }
  }
  for (auto& [weak, status] : strangers) {
    if (auto stream = weak.lock()) stream->Close(status);
  }
}

void Collection::End(const absl::Status& status) {
  std::map<std::string, Stream> streams;
  std::map<uint64_t, Waiter> waiters;
  {
    absl::MutexLock lock(&mu_);
    ended_ = status;
    progress_.SetReplicas({});
    counters_.clear();
    streams.swap(streams_);
    waiters.swap(waiters_);
  }
  for (auto& [node, entry] : streams) {
    if (auto stream = entry.stream.lock()) {
      stream->Close(absl::FailedPreconditionError(status.message()));
    }
  }
  for (auto& [number, waiter] : waiters) waiter.done(status);
}

absl::Status Collection::Attach(const std::string& node, StreamId id, Seq cursor,
                                std::weak_ptr<ReplicaStream> stream, Incarnation self) {
  std::shared_ptr<ReplicaStream> former;
  {
    absl::MutexLock lock(&mu_);
    ReplicaProgress* replica = progress_.Find(node);
    if (replica == nullptr) {
      return absl::FailedPreconditionError(
          absl::StrCat("node ", node, " has no registered replica of collection ", name_));
    }
    if (!replica->Connected(id, cursor, options_.clock())) {
      return absl::AbortedError("a newer stream of this replica took over");
    }
    ++counters_[node].connects;
    former = streams_[node].stream.lock();
    streams_[node] = {id, std::move(stream), std::move(self)};
  }
  // Only ever from a newer stream to an older one, so no two wait for each other.
  if (former) former->Close(absl::AbortedError("a newer stream of this replica took over"));
  return absl::OkStatus();
}

void Collection::Detach(const std::string& node, StreamId id) {
  absl::MutexLock lock(&mu_);
  if (ReplicaProgress* replica = progress_.Find(node)) replica->Disconnected(id);
  auto it = streams_.find(node);
  if (it != streams_.end() && it->second.id == id) streams_.erase(it);
}

void Collection::HeadSeen(const JournalHead& head) {
  absl::MutexLock lock(&mu_);
  progress_.HeadSeen(head);
}

absl::Status Collection::EntriesRead(const std::string& node, StreamId id,
                                     absl::Span<const EntryRead> entries) {
  absl::MutexLock lock(&mu_);
  ReplicaProgress* replica = progress_.Find(node);
  if (replica == nullptr) return absl::FailedPreconditionError("no longer registered");
  return replica->EntriesRead(id, entries);
}

void Collection::Sent(const std::string& node, StreamId id, Seq upto, uint64_t bytes,
                      uint64_t records) {
  absl::MutexLock lock(&mu_);
  if (ReplicaProgress* replica = progress_.Find(node)) {
    replica->Sent(id, upto);
    counters_[node].sent_bytes += bytes;
    counters_[node].sent_records += records;
  }
}

absl::Status Collection::Acked(const std::string& node, StreamId id, Seq seq) {
  std::vector<std::function<void(const absl::Status&)>> satisfied;
  {
    absl::MutexLock lock(&mu_);
    ReplicaProgress* replica = progress_.Find(node);
    if (replica == nullptr) return absl::FailedPreconditionError("no longer registered");
    absl::StatusOr<bool> moved = replica->Acked(id, seq, options_.clock());
    if (!moved.ok()) return moved.status();
    if (*moved) satisfied = TakeSatisfied();
  }
  for (auto& done : satisfied) done(absl::OkStatus());
  return absl::OkStatus();
}

void Collection::Trimmed(const std::string& node, StreamId id, Seq first_seq) {
  absl::MutexLock lock(&mu_);
  if (ReplicaProgress* replica = progress_.Find(node)) replica->Trimmed(id, first_seq);
}

bool Collection::MayRead(const std::string& node, StreamId id) const {
  absl::MutexLock lock(&mu_);
  auto it = progress_.replicas().find(node);
  return it != progress_.replicas().end() && it->second.MayRead(id);
}

Seq Collection::head() const {
  absl::MutexLock lock(&mu_);
  return progress_.head();
}

void Collection::JournalSeen(const JournalHead& head, Seq first_seq) {
  absl::MutexLock lock(&mu_);
  progress_.HeadSeen(head);
  progress_.FirstSeqSeen(first_seq);
}

std::vector<std::pair<std::string, Seq>> Collection::WantedCommitTimes() const {
  absl::MutexLock lock(&mu_);
  return progress_.WantedCommitTimes();
}

void Collection::CommitTimeKnown(const std::string& node, Seq seq, absl::Time committed_at) {
  absl::MutexLock lock(&mu_);
  if (ReplicaProgress* replica = progress_.Find(node)) {
    replica->CommitTimeKnown(seq, committed_at);
  }
}

std::vector<std::pair<std::string, Seq>> Collection::Cursors() const {
  absl::MutexLock lock(&mu_);
  return progress_.Cursors();
}

void Collection::Tick() {
  std::vector<std::pair<std::string, Stream>> silent;
  std::vector<std::shared_ptr<ReplicaStream>> open;
  Seq head;
  {
    absl::MutexLock lock(&mu_);
    head = progress_.head();
    for (const auto& [node, entry] : streams_) {
      const ReplicaProgress* replica = progress_.Find(node);
      if (replica != nullptr && replica->Tick(options_.clock())) {
        silent.emplace_back(node, entry);
      } else if (auto stream = entry.stream.lock()) {
        open.push_back(std::move(stream));
      }
    }
  }
  for (auto& [node, entry] : silent) {
    // Away at once, however long the dead stream takes to end.
    Detach(node, entry.id);
    if (auto stream = entry.stream.lock()) {
      stream->Close(absl::UnavailableError(
          absl::StrCat("no sign of life for ", absl::FormatDuration(options_.silent_after))));
    }
  }
  for (auto& stream : open) stream->Heartbeat(head);
}

std::vector<ReplicaRow> Collection::Rows() const {
  absl::Time now = options_.clock();
  absl::Time wall = options_.wall_clock();
  std::vector<ReplicaRow> rows;
  absl::MutexLock lock(&mu_);
  for (const auto& [node, replica] : progress_.replicas()) {
    ReplicaRow row;
    row.node = node;
    row.state = replica.state();
    row.connected = replica.stream() != 0;
    row.applied = replica.acked();
    row.head = progress_.head();
    row.lag = replica.lag(now);
    if (replica.last_ack()) row.last_ack = wall - (now - *replica.last_ack());
    auto counters = counters_.find(node);
    if (counters != counters_.end()) {
      row.sent_bytes = counters->second.sent_bytes;
      row.sent_records = counters->second.sent_records;
      row.reconnects = counters->second.connects - (counters->second.connects > 0);
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

absl::StatusOr<uint64_t> Collection::Wait(Seq seq, std::function<void(const absl::Status&)> done) {
  uint64_t number;
  {
    absl::MutexLock lock(&mu_);
    if (!ended_.ok()) return ended_;
    if (waiters_.size() >= kMaxWaiters) {
      return absl::ResourceExhaustedError(
          absl::StrCat(kMaxWaiters, " calls wait for replicas of ", name_, " already"));
    }
    number = ++last_waiter_;
    if (progress_.AppliedByAll().value_or(seq) < seq) {
      waiters_.emplace(number, Waiter{seq, std::move(done)});
      return number;
    }
  }
  done(absl::OkStatus());
  return number;
}

void Collection::CancelWait(uint64_t number) {
  std::map<uint64_t, Waiter>::node_type dropped;
  absl::MutexLock lock(&mu_);
  dropped = waiters_.extract(number);
}

std::vector<std::string> Collection::SnapshotSources(const std::string& joiner) const {
  absl::MutexLock lock(&mu_);
  return progress_.SnapshotSources(joiner);
}

bool Collection::OrderServe(const std::string& node, const std::string& session) {
  std::shared_ptr<ReplicaStream> stream;
  {
    absl::MutexLock lock(&mu_);
    auto it = streams_.find(node);
    if (it != streams_.end()) stream = it->second.stream.lock();
  }
  if (!stream) return false;
  stream->Serve(session);
  return true;
}

std::vector<std::function<void(const absl::Status&)>> Collection::TakeSatisfied() {
  std::vector<std::function<void(const absl::Status&)>> satisfied;
  if (waiters_.empty()) return satisfied;
  std::optional<Seq> applied = progress_.AppliedByAll();
  for (auto it = waiters_.begin(); it != waiters_.end();) {
    if (applied.value_or(it->second.seq) >= it->second.seq) {
      satisfied.push_back(std::move(it->second.done));
      it = waiters_.erase(it);
    } else {
      ++it;
    }
  }
  return satisfied;
}

}  // namespace intermezzo::forwarder
