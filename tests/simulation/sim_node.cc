#include "tests/simulation/sim_node.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/record/codec.h"

namespace intermezzo::simulation {

SimNode::SimNode(World& world, Checker& checker, SimServer& server, Place place,
                 bool offline_writes)
    : world_(world),
      checker_(checker),
      server_(server),
      place_(place),
      offline_writes_(offline_writes),
      name_(absl::StrCat("node-", place)),
      ordinal_(place),
      rate_(1.0 + (static_cast<double>(world.Below(21)) - 10) / 1000) {
  Restart();
}

// ---- life --------------------------------------------------------------------------------------

void SimNode::Crash() {
  ++life_;
  connection_.reset();
  paused_ = false;
  while_paused_.clear();
  gate_open_ = false;
  parked_ = 0;
  for (StreamPtr* stream : {&forward_, &append_}) {
    if (*stream) world_.Break(*stream);
    stream->reset();
  }
}

void SimNode::Restart() {
  if (alive()) return;
  ++life_;
  append_epoch_ = Epoch();
  armed_ = absl::InfiniteDuration();
  Connection::Options options;
  options.offline_writes = offline_writes_;
  options.token_wait = absl::Seconds(5);
  options.disconnect_after = absl::Seconds(3);
  connection_ =
      std::make_unique<Connection>(options, cursor_, last_origin_seq_, Settled(), Clock());
  const token::Holder me{name_, "instance"};
  world_.Send(place_, kServer, [this, me] {
    server_.WatchRecalls(me, [this](Epoch epoch) {
      world_.Send(kServer, place_, [this, epoch] {
        if (alive()) Mine([this, epoch] { Step(input::Recalled{epoch}); })();
      });
    });
  });
  Step(input::Joined{});
  ConnectForward();
}

void SimNode::Pause() { paused_ = alive(); }

void SimNode::Resume() {
  if (!paused_) return;
  paused_ = false;
  for (auto& event : std::exchange(while_paused_, {})) event();
}

std::function<void()> SimNode::Mine(std::function<void()> event) {
  return [this, life = life_, event = std::move(event)] {
    if (life != life_ || !alive()) return;
    if (paused_) {
      while_paused_.push_back(Mine(event));
      return;
    }
    event();
  };
}

void SimNode::Step(const Input& input) {
  if (!alive()) return;
  for (const Action& action : connection_->Step(input, Clock())) Do(action);
  ArmTick();
}

void SimNode::ArmTick() {
  const Monotonic next = connection_->NextTick();
  if (next == absl::InfiniteDuration() || next >= armed_) return;
  armed_ = next;
  const absl::Duration wait = std::max((next - Clock()) / rate_, absl::Microseconds(100));
  world_.After(wait, Mine([this] {
                 armed_ = absl::InfiniteDuration();
                 Step(input::Tick{});
               }));
}

// ---- what the state machine wants --------------------------------------------------------------

void SimNode::Do(const Action& action) {
  const token::Holder me{name_, "instance"};
  if (const auto* acquire = std::get_if<action::Acquire>(&action)) {
    const uint64_t call = ++call_;
    const Monotonic asked = Clock();
    auto answer = [this, call, asked](absl::StatusOr<token::Grant> grant) {
      if (call != call_) return;
      ++call_;
      if (grant.ok()) {
        Step(input::Granted{grant->epoch, grant->head_seq, grant->lease, asked});
      } else {
        Step(input::AcquireFailed{grant.status()});
      }
    };
    world_.After(acquire->timeout, Mine([answer, this, call] {
                   if (call != call_) return;
                   world_.Send(place_, kServer,
                               [this, call] { server_.CancelAcquire(place_, call); });
                   answer(absl::DeadlineExceededError("no answer"));
                 }));
    if (!world_.Connected(place_, kServer)) {
      world_.After(world_.UpTo(absl::Milliseconds(50)),
                   Mine([answer] { answer(absl::UnavailableError("no route")); }));
      return;
    }
    world_.Send(place_, kServer, [this, me, call, done = Mine([] {}), answer, life = life_] {
      server_.Acquire(place_, me, call, [this, answer, life](absl::StatusOr<token::Grant> grant) {
        world_.Send(kServer, place_, [this, answer, grant, life] {
          if (life == life_) Mine([answer, grant] { answer(grant); })();
        });
      });
    });
  } else if (std::get_if<action::CancelAcquire>(&action)) {
    const uint64_t call = call_++;
    world_.Send(place_, kServer, [this, call] { server_.CancelAcquire(place_, call); });
  } else if (const auto* renew = std::get_if<action::Renew>(&action)) {
    const Monotonic asked = Clock();
    auto answered = std::make_shared<bool>(false);
    auto answer = [this, epoch = renew->epoch, asked,
                   answered](absl::StatusOr<token::Renewal> renewal) {
      if (std::exchange(*answered, true)) return;
      if (renewal.ok()) {
        Step(input::RenewOk{epoch, renewal->lease, renewal->recalled, asked});
      } else {
        Step(input::RenewFailed{epoch, renewal.status()});
      }
    };
    world_.After(absl::Milliseconds(500),
                 Mine([answer] { answer(absl::UnavailableError("no answer")); }));
    world_.Send(place_, kServer, [this, me, epoch = renew->epoch, answer, life = life_] {
      const auto renewal = server_.Renew(me, epoch);
      world_.Send(kServer, place_, [this, answer, renewal, life] {
        if (life == life_) Mine([answer, renewal] { answer(renewal); })();
      });
    });
  } else if (const auto* release = std::get_if<action::Release>(&action)) {
    auto answered = std::make_shared<bool>(false);
    auto answer = [this, epoch = release->epoch, answered](absl::Status status) {
      if (!std::exchange(*answered, true)) Step(input::ReleaseDone{epoch, status});
    };
    world_.After(absl::Milliseconds(500),
                 Mine([answer] { answer(absl::UnavailableError("no answer")); }));
    world_.Send(place_, kServer, [this, me, epoch = release->epoch, answer, life = life_] {
      const absl::Status status = server_.Release(me, epoch);
      world_.Send(kServer, place_, [this, answer, status, life] {
        if (life == life_) Mine([answer, status] { answer(status); })();
      });
    });
  } else if (const auto* open = std::get_if<action::OpenGate>(&action)) {
    OpenGate(open->epoch);
  } else if (std::get_if<action::CloseGate>(&action)) {
    gate_open_ = false;
  } else if (const auto* quiesce = std::get_if<action::Quiesce>(&action)) {
    world_.After(world_.UpTo(absl::Milliseconds(2)), Mine([this, g = quiesce->generation] {
                   Step(input::Quiet{g, last_origin_seq_});
                 }));
  } else if (std::get_if<action::FlushMappings>(&action)) {
    world_.After(world_.UpTo(absl::Milliseconds(2)), Mine([this] { Step(input::Flushed{}); }));
  } else if (const auto* start = std::get_if<action::StartAppend>(&action)) {
    append_epoch_ = start->epoch;
    ConnectAppend();
  } else if (std::get_if<action::StopAppend>(&action)) {
    append_epoch_ = Epoch();
    if (append_) world_.Break(append_);
    append_.reset();
  } else if (std::get_if<action::FailParked>(&action)) {
    parked_ = 0;
  } else if (std::get_if<action::RestartForward>(&action)) {
    if (forward_) world_.Break(forward_);
  }
}

void SimNode::OpenGate(Epoch epoch) {
  gate_open_ = true;
  gate_epoch_ = epoch;
  if (epoch) checker_.GateOpened(name_, ordinal_, epoch, cursor_);
  for (int n = std::exchange(parked_, 0); n > 0; --n) Capture();
}

bool SimNode::writes_under_token() const {
  return alive() && !paused_ && gate_open_ && gate_epoch_ && Clock() < connection_->lease_end();
}

bool SimNode::quiet() const {
  return alive() && connection_->phase() == Connection::Phase::kConnected && pending_.empty() &&
         parked_ == 0 && cursor_ == server_.head();
}

std::string SimNode::StateText() const {
  if (!alive()) return absl::StrCat(name_, ": dead");
  return absl::StrCat(name_, ": ", PhaseName(connection_->phase()), ", token ",
                      TokenName(connection_->token()), ", cursor ", cursor_.value(), " of ",
                      server_.head().value(), ", pending ", pending_.size(), ", gate ", gate_open_);
}

// ---- local updates -----------------------------------------------------------------------------

void SimNode::Update() {
  if (!alive() || paused_) return;
  if (gate_open_) return Capture();
  if (parked_++ == 0) Step(input::WritersWaiting{});
}

ModelTree SimNode::Current() const {
  ModelTree tree = base_;
  for (const Pending& pending : pending_) {
    if (auto status = tree.Apply(pending.record, pending.payload); !status.ok()) {
      checker_.Violation(absl::StrCat(
          "3: ", name_, " holds records that do not follow: ", std::string(status.message())));
    }
  }
  return tree;
}

uint64_t SimNode::Settled() const {
  return pending_.empty() ? last_origin_seq_ : pending_.front().origin_seq - 1;
}

void SimNode::Capture() {
  const ModelTree tree = Current();
  record::v1::Record record;
  std::string payload;
  const std::string name = absl::StrCat("file-", world_.Below(6));
  const uint64_t object = tree.ObjectAt(name);
  if (object == 0) {
    auto& op = *record.mutable_create();
    op.set_parent(kRootObject.value());
    op.set_name(name);
    op.set_object(ObjectId(ordinal_, ++objects_).value());
    op.set_kind(record::v1::OBJECT_KIND_FILE);
    op.mutable_attributes()->mutable_mtime();
    op.mutable_parent_mtime();
  } else if (const uint64_t dice = world_.Below(4); dice == 0) {
    auto& op = *record.mutable_remove();
    op.set_parent(kRootObject.value());
    op.set_name(name);
    op.set_object(object);
    op.set_last(true);
    op.mutable_parent_mtime();
  } else if (dice == 1) {
    const std::string target = absl::StrCat("file-", world_.Below(6));
    if (target == name) return;
    auto& op = *record.mutable_rename();
    op.set_object(object);
    op.set_from_parent(kRootObject.value());
    op.set_to_parent(kRootObject.value());
    op.set_from_name(name);
    op.set_to_name(target);
    op.set_replaced(tree.ObjectAt(target));
    op.set_replaced_last(op.replaced() != 0);
    op.mutable_from_parent_mtime();
    op.mutable_to_parent_mtime();
  } else {
    auto& op = *record.mutable_write();
    op.set_object(object);
    payload = absl::StrCat(name_, "-", last_origin_seq_ + 1);
    auto& extent = *op.add_extents();
    extent.set_length(payload.size());
    op.set_size(payload.size());
    op.mutable_mtime();
  }
  const Version version(ordinal_, ++last_origin_seq_);
  record.set_version(version.value());
  record.set_epoch(gate_epoch_.value());
  record.mutable_time();
  tree.StateTouches(record);
  pending_.push_back({last_origin_seq_, record, payload});
  checker_.Captured(version);
  Step(input::LocalRecords{last_origin_seq_});
  SendPending();
}

// ---- forward stream ----------------------------------------------------------------------------

void SimNode::ConnectForward() {
  auto stream = std::make_shared<Stream>(place_, kServer);
  stream->on_break = Mine([this, raw = stream.get()] {
    if (forward_.get() != raw) return;
    forward_.reset();
    Step(input::StreamDown{});
    world_.After(absl::Milliseconds(50), Mine([this] {
                   if (!forward_) ConnectForward();
                 }));
  });
  forward_ = stream;
  world_.Send(stream, true, [this, stream, cursor = cursor_, life = life_] {
    server_.Subscribe(place_, stream, cursor, [this, stream, life](const SimServer::Batch& batch) {
      if (life == life_) Mine([this, stream, batch] { Received(stream, batch); })();
    });
  });
}

void SimNode::Received(const StreamPtr& stream, const SimServer::Batch& batch) {
  if (stream != forward_) return;
  for (const auto& entry : batch.entries) {
    if (!ApplyEntry(entry)) return world_.Break(stream);
  }
  Step(input::HeadSeen{batch.head, Clock()});
  AckNow();
}

void SimNode::AckNow() {
  if (!forward_) return;
  world_.Send(forward_, true,
              [this, stream = forward_, cursor = cursor_] { server_.Ack(place_, stream, cursor); });
}

bool SimNode::ApplyEntry(const record::v1::Entry& entry) {
  if (entry.seq() <= cursor_.value()) return true;
  if (entry.seq() != cursor_.next().value()) return false;  // overtook another
  if (ChainHash(chain_, Seq(entry.seq()), entry.record()) != entry.chain()) {
    checker_.Violation(absl::StrCat("1: ", name_, " got another chain"));
    return false;
  }
  const auto record = OpenRecord(entry);
  const Version version(record->version());
  if (version.ordinal() == ordinal_) {
    if (pending_.empty() || pending_.front().origin_seq != version.counter()) {
      checker_.Violation(
          absl::StrCat("6: ", name_, " got back a record that it does not wait for"));
      return false;
    }
    pending_.pop_front();
    confirmed_ = version.counter();
  }
  const auto payload = OpenPayload(entry, *record);
  if (auto status = base_.Apply(*record, payload.ok() ? *payload : ""); !status.ok()) {
    checker_.Violation(
        absl::StrCat("1: ", name_, " at ", entry.seq(), ": ", std::string(status.message())));
    return false;
  }
  cursor_ = Seq(entry.seq());
  chain_ = entry.chain();
  // The model's policy: what no longer follows is set aside (keep-both has tests of its own).
  ModelTree tree = base_;
  for (auto it = pending_.begin(); it != pending_.end();) {
    if (tree.Apply(it->record, it->payload).ok()) {
      ++it;
    } else {
      checker_.SetAside(Version(it->record.version()));
      it = pending_.erase(it);
    }
  }
  checker_.ReplicaAt(name_, cursor_, base_);
  Step(input::CursorMoved{cursor_});
  Step(input::JournalConfirmed{Settled()});
  return true;
}

// ---- append stream -----------------------------------------------------------------------------

void SimNode::ConnectAppend() {
  auto stream = std::make_shared<Stream>(place_, kServer);
  stream->on_break = Mine([this, raw = stream.get()] {
    if (append_.get() != raw) return;
    append_.reset();
    world_.After(absl::Milliseconds(50), Mine([this] {
                   if (!append_ && append_epoch_) ConnectAppend();
                 }));
  });
  append_ = stream;
  append_sent_ = confirmed_;
  SendPending();
}

void SimNode::SendPending() {
  if (!append_ || !append_epoch_) return;
  while (true) {
    std::vector<record::v1::Entry> entries;
    uint64_t last = append_sent_;
    const uint64_t most = 1 + world_.Below(4);
    for (const Pending& pending : pending_) {
      if (pending.origin_seq <= append_sent_) continue;
      if (entries.size() == most) break;
      entries.push_back(SealEntry(pending.record, pending.payload));
      last = pending.origin_seq;
    }
    if (entries.empty()) return;
    auto answer = [this, stream = append_,
                   epoch = append_epoch_](const absl::StatusOr<journal::Confirmation>& result) {
      if (stream != append_) return;
      if (result.ok()) return Step(input::JournalConfirmed{result->origin_seq});
      world_.Break(stream);
      if (absl::IsFailedPrecondition(result.status())) Step(input::StaleEpoch{epoch});
    };
    world_.Send(append_, true,
                [this, stream = append_, epoch = append_epoch_, previous = append_sent_, entries,
                 answer, life = life_] {
                  const auto result = server_.Append(ordinal_, epoch, previous, entries);
                  world_.Send(stream, false, [this, answer, result, life] {
                    if (life == life_) Mine([answer, result] { answer(result); })();
                  });
                });
    append_sent_ = last;
  }
}

}  // namespace intermezzo::simulation
