#include "services/sidecar/session/replica_session.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "intermezzo/forwarder/v1/forwarder.pb.h"
#include "services/common/log/log.h"
#include "services/common/types/view.h"
#include "services/sidecar/session/boot_time.h"
#include "services/sidecar/session/metrics.h"

namespace intermezzo::sidecar {
namespace {

// While entries are applied, the server hears of it at least so often.
constexpr absl::Duration kAckInterval = absl::Milliseconds(200);
constexpr absl::Duration kDiskFullRetry = absl::Milliseconds(500);
constexpr absl::Duration kDrainLook = absl::Milliseconds(500);
// Entries whose bytes do not match are asked for again so often before the replica stops.
constexpr int kMaxDataLosses = 3;

// The op's field name: "create", "set_xattr".
std::string OpName(const record::v1::Record& record) {
  const auto* oneof = record::v1::Record::descriptor()->FindOneofByName("op");
  const auto* field = record.GetReflection()->GetOneofFieldDescriptor(record, oneof);
  return field == nullptr ? "unknown" : field->name();
}

}  // namespace

ReplicaSession::ReplicaSession(Options options, Replica& replica, ConflictResolver& resolver,
                               ReplicaMetrics* metrics, Hooks hooks)
    : options_(options),
      replica_(replica),
      resolver_(resolver),
      metrics_(metrics),
      hooks_(std::move(hooks)),
      confirmed_(replica.settled_origin_seq()),
      connection_({.offline_writes = options.offline_writes,
                   .token_wait = options.token_wait,
                   .disconnect_after = options.disconnect_after},
                  replica.cursor(), replica.last_origin_seq(), replica.settled_origin_seq(),
                  BootTime()),
      offline_writes_(options.offline_writes) {}

ReplicaSession::~ReplicaSession() { (void)Stop(absl::ZeroDuration()); }

void ReplicaSession::Start(const std::function<Links(ReplicaSession&)>& make_links) {
  links_ = make_links(*this);
  jobs_ = std::make_unique<JobThread>();
  replica_.gate().SetWanted([this] { Post(input::WritersWaiting{}); });
  replica_.SetProgressCallback([this] {
    links_.append->Wake();
    if (attentive_.load()) Wake();
  });
  loop_ = std::thread([this] { Loop(); });
  join_ = std::thread([this] { RunJoin(); });
}

absl::Status ReplicaSession::Stop(absl::Duration timeout) {
  if (!loop_.joinable()) return absl::OkStatus();
  cancelled_ = true;
  Post(input::Stop{});
  bool clean;
  {
    absl::MutexLock lock(&mu_);
    clean = mu_.AwaitWithTimeout(absl::Condition(&stopped_), timeout);
  }
  // The streams end before the loop, whose handlers they call.
  links_.forward->Shutdown();
  if (join_.joinable()) join_.join();
  {
    absl::MutexLock lock(&mu_);
    shutdown_ = true;
  }
  loop_.join();
  jobs_.reset();
  replica_.SetProgressCallback([] {});
  replica_.gate().SetWanted([] {});
  links_ = Links();
  if (clean) return absl::OkStatus();
  return absl::DeadlineExceededError(
      absl::StrCat("not handed back in time: ", replica_.pending_records(), " records pending"));
}

void ReplicaSession::Recalled(Epoch epoch) { Post(input::Recalled{epoch}); }

void ReplicaSession::SetOfflineWrites(bool allow) {
  {
    absl::MutexLock lock(&mu_);
    offline_writes_ = allow;
  }
  Wake();
}

ReplicaSession::Status ReplicaSession::status() const {
  absl::MutexLock lock(&mu_);
  Status status = status_;
  status.conflicts = conflicts_.load();
  if (resolving_.load() && status.phase != Connection::Phase::kFailed) {
    status.phase = Connection::Phase::kReconnecting;
    if (!hindrance_.ok()) status.error = hindrance_;
  } else if (status.phase == Connection::Phase::kJoining) {
    status.error = hindrance_;
  }
  status.head = std::max(status.head, Seq(heard_head_.load()));
  return status;
}

void ReplicaSession::ResolvingHindered(const absl::Status& reason) {
  absl::MutexLock lock(&mu_);
  hindrance_ = reason;
}

void ReplicaSession::CountConflict(const std::string& kind) {
  ++conflicts_;
  if (metrics_ != nullptr) metrics_->Conflict(kind);
}

bool ReplicaSession::WaitFor(const std::function<bool(const Status&)>& predicate,
                             absl::Duration timeout) const {
  absl::MutexLock lock(&mu_);
  auto holds = [&]() ABSL_SHARED_LOCKS_REQUIRED(mu_) { return predicate(status_); };
  return mu_.AwaitWithTimeout(absl::Condition(&holds), timeout);
}

// ---- the loop ----------------------------------------------------------------------------------

void ReplicaSession::Post(Input input) {
  absl::MutexLock lock(&mu_);
  inbox_.push_back(std::move(input));
}

void ReplicaSession::Wake() {
  absl::MutexLock lock(&mu_);
  woken_ = true;
}

void ReplicaSession::Loop() {
  for (;;) {
    std::deque<Input> inputs;
    {
      auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
        return woken_ || shutdown_ || !inbox_.empty();
      };
      absl::MutexLock lock(&mu_);
      mu_.AwaitWithTimeout(absl::Condition(&ready), connection_.NextTick() - BootTime());
      if (shutdown_) return;
      inputs.swap(inbox_);
      woken_ = false;
      connection_.SetOfflineWrites(offline_writes_);
    }
    Refresh();
    for (const Input& input : inputs) {
      // A late word from a gate that has been opened since.
      if (std::holds_alternative<input::WritersWaiting>(input) && !replica_.gate().wanted()) {
        continue;
      }
      Step(input);
    }
    Step(input::Tick{});
    Publish();
    // In the two calm states nothing depends on the frequent facts: the loop sleeps through them.
    const bool calm = connection_.phase() == Connection::Phase::kConnected &&
                      (connection_.token() == Connection::Token::kNone ||
                       connection_.token() == Connection::Token::kHeld);
    // What changed before the flag was up is looked at once more.
    if (!attentive_.exchange(!calm) && !calm) Wake();
  }
}

void ReplicaSession::Refresh() {
  // First of all the contact: every step looks at the time, and would find the stream silent.
  const bool up = stream_up_.load();
  const int64_t at_ns = heard_at_ns_.load();
  if (!up && fed_stream_up_) Step(input::StreamDown{});
  if (up && at_ns != fed_heard_at_ns_) {
    Step(input::HeadSeen{Seq(heard_head_.load()), absl::Nanoseconds(at_ns)});
  }
  fed_stream_up_ = up;
  fed_heard_at_ns_ = at_ns;
  if (const absl::Status failure = replica_.failure(); !failure.ok() && !fed_failure_) {
    fed_failure_ = true;
    Step(input::Broken{failure});
  }
  Step(input::CursorMoved{replica_.cursor()});
  Step(input::LocalRecords{replica_.last_origin_seq()});
  Step(input::JournalConfirmed{std::max(confirmed_.load(), replica_.settled_origin_seq())});
}

void ReplicaSession::Step(const Input& input) {
  for (const Action& action : connection_.Step(input, BootTime())) {
    std::visit([this](const auto& what) { Do(what); }, action);
  }
}

void ReplicaSession::Publish() {
  Connection::Phase phase = connection_.phase();
  if (resolving_.load() && phase != Connection::Phase::kFailed &&
      phase != Connection::Phase::kStopped) {
    phase = Connection::Phase::kReconnecting;  // whatever else it cannot do now
  }
  {
    absl::MutexLock lock(&mu_);
    status_.phase = phase;
    status_.token = connection_.token();
    status_.epoch = connection_.epoch();
    status_.head = connection_.head();
    status_.error = connection_.error();
  }
  if (metrics_ != nullptr) {
    metrics_->State(PhaseName(phase));
    metrics_->Token(connection_.token() == Connection::Token::kHeld, connection_.epoch().value());
    metrics_->Position(replica_.cursor().value(), connection_.head().value(),
                       replica_.pending_records());
  }
  if (phase == logged_phase_) return;
  logged_phase_ = phase;
  const std::string& collection = replica_.options().collection.str();
  if (phase == Connection::Phase::kFailed) {
    log::Error("the replica has stopped; its files stay readable",
               {{"collection", collection}, {"error", std::string(connection_.error().message())}});
  } else {
    log::Info("replica " + PhaseName(phase),
              {{"collection", collection}, {"cursor", absl::StrCat(replica_.cursor().value())}});
  }
}

// ---- actions -----------------------------------------------------------------------------------

void ReplicaSession::Do(const action::Acquire& a) {
  const Monotonic asked_at = BootTime();
  links_.token->Acquire(a.timeout, [this, asked_at](absl::StatusOr<TokenClient::Grant> grant) {
    if (!grant.ok()) return Post(input::AcquireFailed{grant.status()});
    if (metrics_ != nullptr) metrics_->Acquired(absl::ToDoubleSeconds(BootTime() - asked_at));
    Post(input::Granted{grant->epoch, grant->head, grant->lease, asked_at});
  });
}

void ReplicaSession::Do(const action::CancelAcquire&) { links_.token->CancelAcquire(); }

void ReplicaSession::Do(const action::Renew& a) {
  const Monotonic asked_at = BootTime();
  links_.token->Renew(
      a.epoch, [this, epoch = a.epoch, asked_at](absl::StatusOr<TokenClient::Renewal> renewal) {
        if (!renewal.ok()) return Post(input::RenewFailed{epoch, renewal.status()});
        Post(input::RenewOk{epoch, renewal->lease, renewal->recalled, asked_at});
      });
}

void ReplicaSession::Do(const action::Release& a) {
  links_.token->Release(a.epoch, [this, epoch = a.epoch](absl::Status status) {
    Post(input::ReleaseDone{epoch, std::move(status)});
  });
}

void ReplicaSession::Do(const action::OpenGate& a) {
  ++gate_generation_;
  replica_.gate().Open(WriteAuthority{a.epoch});
}

void ReplicaSession::Do(const action::CloseGate&) {
  ++gate_generation_;
  replica_.gate().Close();
}

void ReplicaSession::Do(const action::Quiesce& a) {
  jobs_->Add([this, generation = a.generation, gate = gate_generation_.load()] {
    while (!replica_.gate().WaitDrained(kDrainLook).ok()) {
      if (gate != gate_generation_.load()) return;  // opened again: nobody waits for this
    }
    if (absl::Status status = replica_.CutAll(); !status.ok()) {
      return Post(input::Broken{std::move(status)});
    }
    Post(input::Quiet{generation, replica_.last_origin_seq()});
  });
}

void ReplicaSession::Do(const action::FlushMappings&) {
  if (!hooks_.flush_mappings) return Post(input::Flushed{});
  jobs_->Add([this] {
    if (absl::Status status = hooks_.flush_mappings(options_.flush_timeout); !status.ok()) {
      // Pages that come later are parked and written under the next grant.
      log::Warning("shared mappings were not flushed in time",
                   {{"collection", replica_.options().collection.str()},
                    {"error", std::string(status.message())}});
    }
    Post(input::Flushed{});
  });
}

void ReplicaSession::Do(const action::StartAppend& a) { links_.append->Start(a.epoch); }

void ReplicaSession::Do(const action::StopAppend&) { links_.append->Stop(); }

void ReplicaSession::Do(const action::FailParked& a) { replica_.gate().FailParked(a.status); }

void ReplicaSession::Do(const action::RestartForward&) { links_.forward->Restart(); }

void ReplicaSession::Do(const action::JoinGranted& a) {
  absl::MutexLock lock(&mu_);
  join_granted_ = a.head;
}

void ReplicaSession::Do(const action::Reconcile&) {
  absl::MutexLock lock(&mu_);
  append_stopped_ = true;
}

void ReplicaSession::Do(const action::Stopped&) {
  absl::MutexLock lock(&mu_);
  stopped_ = true;
}

// ---- append ------------------------------------------------------------------------------------

void ReplicaSession::Confirmed(uint64_t origin_seq) {
  uint64_t seen = confirmed_.load();
  while (seen < origin_seq && !confirmed_.compare_exchange_weak(seen, origin_seq)) {
  }
  // Taking the lock is what lets those who wait look again.
  if (attentive_.load() || confirmation_waiters_.load() > 0) Wake();
}

void ReplicaSession::Refused(Epoch epoch, absl::Status status) {
  if (absl::IsFailedPrecondition(status)) return Post(input::StaleEpoch{epoch});
  status = absl::Status(status.code(),
                        absl::StrCat("the journal refuses local records: ", status.message()));
  bool reconcile = false;
  if (absl::IsAborted(status)) {
    absl::MutexLock lock(&mu_);
    // Once more on the same state would come to the same.
    reconcile = status_.phase != Connection::Phase::kJoining &&
                reconciled_ != std::pair(replica_.cursor(), confirmed_.load());
    if (reconcile) refusal_ = status;
  }
  if (!reconcile) return Post(input::Broken{std::move(status)});
  log::Warning("a conflict", {{"collection", replica_.options().collection.str()},
                              {"error", std::string(status.message())}});
  Post(input::Diverged{});  // the forward thread reconciles when it hears of the server
}

// ---- forward -----------------------------------------------------------------------------------

void ReplicaSession::FillHello(forwarder::v1::Hello* hello) {
  const Replica::Options& options = replica_.options();
  hello->set_collection(options.collection.str());
  hello->set_collection_uid(options.collection_uid);
  hello->set_node(options.node.str());
  hello->set_instance(options.instance);
  hello->set_ordinal(static_cast<uint32_t>(options.ordinal.value()));
  hello->set_cursor(replica_.cursor().value());
  hello->set_chain(replica_.chain());
}

absl::Status ReplicaSession::OnEntries(const forwarder::v1::Entries& entries,
                                       const std::function<void(Seq)>& ack) {
  heard_head_ = std::max(heard_head_.load(), entries.head_seq());
  heard_at_ns_ = absl::ToInt64Nanoseconds(BootTime());
  stream_up_ = true;
  if (metrics_ != nullptr) {
    metrics_->Contact(absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()));
  }
  if (attentive_.load()) Wake();
  std::optional<absl::Status> refusal;
  {
    absl::MutexLock lock(&mu_);
    refusal = refusal_;
  }
  if (refusal) {
    if (absl::Status status = Reconcile(replica_.cursor(), *refusal); !status.ok()) return status;
  }
  Monotonic acked_at = BootTime();
  for (const record::v1::Entry& entry : entries.entries()) {
    if (absl::Status status = ApplyOne(entry, ack); !status.ok()) return status;
    if (const Monotonic now = BootTime(); now - acked_at >= kAckInterval) {
      acked_at = now;
      heard_at_ns_ = absl::ToInt64Nanoseconds(now);  // busy is not silent
      ack(replica_.cursor());
    }
  }
  ack(replica_.cursor());
  return absl::OkStatus();
}

absl::Status ReplicaSession::ApplyOne(const record::v1::Entry& entry,
                                      const std::function<void(Seq)>& ack) {
  for (;;) {
    const Monotonic began = BootTime();
    absl::Status status = replica_.Apply(entry);
    if (status.ok()) {
      data_losses_ = 0;
      record::v1::Record record;
      const bool parsed = record.ParseFromString(entry.record());
      const Version version(parsed ? record.version() : 0);
      {
        absl::MutexLock lock(&mu_);
        if (version.ordinal() == replica_.options().ordinal) {
          own_applied_ = version.counter();
          own_position_ = {true, Seq(entry.seq()), entry.chain(), last_foreign_};
          if (auto waiting = own_waiters_.find(own_applied_); waiting != own_waiters_.end()) {
            for (OwnPosition* position : waiting->second) *position = own_position_;
            own_waiters_.erase(waiting);
          }
        } else {
          last_foreign_ = Seq(entry.seq());
        }
      }
      if (metrics_ != nullptr) {
        const int64_t delay_ns = absl::ToUnixNanos(absl::Now()) - entry.committed_ns();
        metrics_->Applied(OpName(record), entry.record().size() + entry.payload_length(),
                          absl::ToDoubleSeconds(BootTime() - began),
                          static_cast<double>(delay_ns) * 1e-9);
      }
      return status;
    }
    if (cancelled_.load()) return absl::CancelledError("the session stops");
    if (metrics_ != nullptr) metrics_->ApplyFailed(absl::StatusCodeToString(status.code()));
    if (absl::IsResourceExhausted(status)) {
      log::Warning("no space for forwarded records; trying again",
                   {{"collection", replica_.options().collection.str()},
                    {"error", std::string(status.message())}});
      ack(replica_.cursor());
      if (absl::Status paused = Pause(kDiskFullRetry); !paused.ok()) return paused;
      heard_at_ns_ = absl::ToInt64Nanoseconds(BootTime());
      continue;
    }
    if (absl::IsAborted(status)) {
      if (absl::Status failed = Reconcile(Seq(entry.seq()), status); !failed.ok()) return failed;
      continue;
    }
    if (absl::IsOutOfRange(status)) return status;  // asked for anew from the cursor
    if (absl::IsDataLoss(status) && ++data_losses_ < kMaxDataLosses) return status;
    Post(input::Broken{
        absl::Status(status.code(), absl::StrCat("seq ", entry.seq(), ": ", status.message()))});
    return status;
  }
}

absl::Status ReplicaSession::Reconcile(Seq at_least, const absl::Status& why) {
  // What is being appended could be in the server's state and be replayed as well.
  {
    absl::MutexLock lock(&mu_);
    append_stopped_ = false;
  }
  Post(input::Diverged{});
  {
    auto stopped = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
      return append_stopped_ || cancelled_.load();
    };
    absl::MutexLock lock(&mu_);
    mu_.Await(absl::Condition(&stopped));
    if (cancelled_.load()) return absl::CancelledError("the session stops");
    refusal_.reset();
  }
  resolving_ = true;
  Wake();
  const absl::Status resolved = resolver_.Resolve(at_least, why, replica_);
  resolving_ = false;
  heard_at_ns_ = absl::ToInt64Nanoseconds(BootTime());
  if (resolved.ok()) {
    {
      absl::MutexLock lock(&mu_);
      reconciled_ = {replica_.cursor(), confirmed_.load()};
    }
    Post(input::Reconciled{});
  } else if (!cancelled_.load()) {
    CountConflict("unresolved");
    Post(input::Broken{resolved});
  }
  return resolved;
}

void ReplicaSession::OnNeedsSnapshot(Seq first_seq) {
  if (cancelled_.load()) return;
  const absl::Status why =
      absl::OutOfRangeError(absl::StrCat("the journal begins at seq ", first_seq.value(),
                                         ", this replica is at ", replica_.cursor().value()));
  log::Warning("a snapshot is needed", {{"collection", replica_.options().collection.str()},
                                        {"reason", std::string(why.message())}});
  // This stream has nothing more to say; the next one begins at the new cursor.
  const Seq before_first(first_seq.value() > 0 ? first_seq.value() - 1 : 0);
  if (Reconcile(before_first, why).ok()) links_.forward->Restart();
}

void ReplicaSession::OnServe(const std::string& snapshot_session) {
  if (hooks_.serve) hooks_.serve(snapshot_session);
}

bool ReplicaSession::OnEnd(const absl::Status& status) {
  const bool was_up = stream_up_.exchange(false);
  Wake();
  if (was_up && !cancelled_.load()) {
    log::Info("the forward stream ended", {{"collection", replica_.options().collection.str()},
                                           {"error", std::string(status.message())}});
  }
  absl::MutexLock lock(&mu_);
  return !shutdown_ && status_.phase != Connection::Phase::kFailed;
}

absl::StatusOr<ReplicaSession::OwnPosition> ReplicaSession::WaitOwnApplied(uint64_t origin_seq,
                                                                           absl::Duration timeout) {
  absl::MutexLock lock(&mu_);
  if (own_applied_ >= origin_seq) {
    OwnPosition position = own_position_;
    position.exact = own_applied_ == origin_seq;
    return position;
  }
  // Filled in by the thread that applies it, because the next one may follow at once.
  OwnPosition position;
  own_waiters_[origin_seq].push_back(&position);
  auto there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return own_applied_ >= origin_seq || cancelled_.load();
  };
  const bool in_time = mu_.AwaitWithTimeout(absl::Condition(&there), timeout);
  if (position.exact) return position;
  if (auto waiting = own_waiters_.find(origin_seq); waiting != own_waiters_.end()) {
    std::erase(waiting->second, &position);
    if (waiting->second.empty()) own_waiters_.erase(waiting);
  }
  if (cancelled_.load()) return absl::CancelledError("the session stops");
  if (!in_time) return absl::DeadlineExceededError("own records did not come back in time");
  return position;
}

// ---- joining -----------------------------------------------------------------------------------

void ReplicaSession::RunJoin() {
  if (!replica_.db().State().joined()) {
    absl::Status status = hooks_.join ? hooks_.join(*this) : absl::OkStatus();
    if (cancelled_.load()) return;
    if (!status.ok()) return Post(input::Broken{std::move(status)});
  }
  // Readers see the tree while the rest of the replay waits for the server; writers are parked.
  const bool resumes = replica_.replay_through() != 0;
  if (resumes) replica_.gate().Pause();
  if (hooks_.joined) {
    if (absl::Status status = hooks_.joined(); !status.ok()) {
      return Post(input::Broken{std::move(status)});
    }
  }
  if (resumes) {
    resolving_ = true;
    Wake();
    const absl::Status status = resolver_.Resume(replica_);
    resolving_ = false;
    if (cancelled_.load()) return;
    if (!status.ok()) return Post(input::Broken{status});
  }
  Post(input::Joined{});
  links_.forward->Start();
}

absl::StatusOr<Seq> ReplicaSession::AcquireToken() {
  {
    absl::MutexLock lock(&mu_);
    join_granted_.reset();
  }
  Post(input::JoinWantsToken{true});
  absl::MutexLock lock(&mu_);
  auto there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return join_granted_.has_value() || cancelled_.load();
  };
  mu_.Await(absl::Condition(&there));
  if (!join_granted_) return absl::CancelledError("the session stops");
  return *join_granted_;
}

void ReplicaSession::AllowRecall() { Post(input::JoinAllowsRecall{}); }

void ReplicaSession::ReleaseToken() { Post(input::JoinWantsToken{false}); }

absl::Status ReplicaSession::WaitConfirmed(uint64_t origin_seq) {
  ++confirmation_waiters_;
  {
    auto done = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
      return confirmed_.load() >= origin_seq || cancelled_.load();
    };
    absl::MutexLock lock(&mu_);
    mu_.Await(absl::Condition(&done));
  }
  --confirmation_waiters_;
  if (confirmed_.load() >= origin_seq) return absl::OkStatus();
  return absl::CancelledError("the session stops");
}

void ReplicaSession::Progress(uint64_t objects, uint64_t total) {
  absl::MutexLock lock(&mu_);
  status_.joined_objects = objects;
  status_.total_objects = total;
}

void ReplicaSession::Hindered(const absl::Status& status) { ResolvingHindered(status); }

absl::Status ReplicaSession::Pause(absl::Duration duration) {
  absl::MutexLock lock(&mu_);
  auto stopping = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return cancelled_.load(); };
  mu_.AwaitWithTimeout(absl::Condition(&stopping), duration);
  return cancelled_.load() ? absl::CancelledError("the session stops") : absl::OkStatus();
}

}  // namespace intermezzo::sidecar
