// Random histories of a Connection against a model of its surroundings: a token-service that
// grants, loses answers, recalls and expires; a journal that confirms or refuses; a forwarder that
// comes and goes; writers. After every step the safety rules hold, and when the weather clears
// every writer is served and everything is in the journal.
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/sidecar/session/connection.h"

namespace intermezzo::sidecar {
namespace {

using Phase = Connection::Phase;
using Token = Connection::Token;

constexpr absl::Duration kLease = absl::Seconds(10);
constexpr absl::Duration kRecallDeadline = absl::Seconds(5);

class World {
 public:
  explicit World(uint64_t seed)
      : random_(seed),
        options_{.offline_writes = seed % 3 != 0,
                 .token_wait = absl::Seconds(20),
                 .disconnect_after = absl::Seconds(3)},
        connection_(options_, Seq(), 0, 0, now_) {
    Feed(input::Joined{});
  }

  void Storm(int steps) {
    for (int i = 0; i < steps && !failed(); ++i) {
      if (Chance(3)) token_up_ = Chance(50);
      if (Chance(3)) forwarder_up_ = Chance(50);
      if (Chance(3)) journal_up_ = Chance(50);
      OneStep(1 + Pick(400));
    }
  }

  // Everything is reachable; nobody else wants the token any more after a while.
  void Clear() {
    token_up_ = forwarder_up_ = journal_up_ = true;
    calm_ = true;
    for (int i = 0; i < 400 && !failed() && !Settled(); ++i) OneStep(200);
    EXPECT_TRUE(Settled()) << Where();
  }

  bool failed() const { return ::testing::Test::HasFailure(); }

 private:
  // What the server knows of the token.
  struct ServerToken {
    bool ours = false;
    uint64_t epoch = 0;  // last granted, to anybody
    Monotonic ends;
    std::optional<Monotonic> recalled_at;
  };
  // An answer on its way.
  struct Answer {
    Monotonic at;
    Input input;
  };

  uint64_t Pick(uint64_t below) { return random_() % below; }
  bool Chance(unsigned percent) { return Pick(100) < percent; }

  void OneStep(uint64_t max_millis) {
    now_ += absl::Milliseconds(1 + Pick(max_millis));
    now_ = std::min(now_, std::max(connection_.NextTick(), last_now_));
    last_now_ = now_;
    ServerTime();
    if (Chance(25)) Write();
    if (forwarder_up_) {
      Forward();
    } else if (stream_up_ && Chance(50)) {
      stream_up_ = false;
      Feed(input::StreamDown{});
    }
    if (journal_up_) Append();
    std::vector<Answer> due;
    std::erase_if(answers_, [&](Answer& answer) {
      if (answer.at > now_) return false;
      due.push_back(answer);
      return true;
    });
    std::shuffle(due.begin(), due.end(), random_);
    for (Answer& answer : due) Feed(answer.input);
    Feed(input::Tick{});
  }

  void ServerTime() {
    if (server_.ours && now_ >= server_.ends) server_.ours = false;
    // Somebody else gets it and writes.
    if (!server_.ours && !calm_ && Chance(20)) {
      ++server_.epoch;
      head_ += Pick(4);
    }
    if (!server_.ours) return;
    if (!calm_ && Chance(10) && !server_.recalled_at) server_.recalled_at = now_;
    if (server_.recalled_at && token_up_ && Chance(60)) {
      Later(input::Recalled{Epoch(server_.epoch)});
    }
  }

  void Forward() {
    stream_up_ = true;
    Feed(input::HeadSeen{Seq(head_), now_});
    if (cursor_ < head_) {
      cursor_ += 1 + Pick(head_ - cursor_);
      Feed(input::CursorMoved{Seq(cursor_)});
    }
  }

  // The append stream, as far as it is started.
  void Append() {
    if (!append_epoch_ || confirmed_ >= last_origin_) return;
    if (append_epoch_ < server_.epoch) {
      const uint64_t stale = std::exchange(append_epoch_, 0);
      return Feed(input::StaleEpoch{Epoch(stale)});
    }
    if (!calm_ && Chance(3)) return Feed(input::Diverged{});  // refused
    const uint64_t count = 1 + Pick(last_origin_ - confirmed_);
    confirmed_ += count;
    head_ += count;
    Feed(input::JournalConfirmed{confirmed_});
  }

  void Write() {
    if (gate_open_) {
      // Safety: under an epoch only while the server could not have given it to another.
      if (gate_epoch_ != 0) {
        EXPECT_TRUE(server_.ours && server_.epoch == gate_epoch_ && now_ < server_.ends)
            << "write under epoch " << gate_epoch_ << " of " << server_.epoch << Where();
        EXPECT_GE(cursor_, grant_head_);
      }
      ++last_origin_;
      if (gate_epoch_ != 0) held_last_ = last_origin_;
      Feed(input::LocalRecords{last_origin_});
    } else {
      parked_ = true;
      if (!parked_since_) parked_since_ = now_;
      Feed(input::WritersWaiting{});
    }
  }

  void Later(Input input) {
    answers_.push_back({now_ + absl::Milliseconds(Pick(300)), std::move(input)});
  }

  void Feed(const Input& input) {
    if (std::holds_alternative<input::Reconciled>(input)) reconciling_ = false;
    for (const Action& action : connection_.Step(input, now_)) {
      std::visit([this](const auto& a) { Do(a); }, action);
    }
    EXPECT_EQ(gate_open_, connection_.gate_open());
    if (parked_since_) {
      EXPECT_LE(now_ - *parked_since_, options_.token_wait + absl::Seconds(1)) << Where();
    }
  }

  void Do(const action::Acquire&) {
    EXPECT_FALSE(acquiring_) << "two at once" << Where();
    EXPECT_FALSE(releasing_) << "asked while giving back" << Where();
    EXPECT_FALSE(reconciling_) << Where();
    acquiring_ = true;
    const Monotonic asked_at = now_;
    if (!token_up_) {
      acquiring_ = false;
      return Later(input::AcquireFailed{absl::UnavailableError("down")});
    }
    if (!server_.ours) {
      ++server_.epoch;
      server_.ours = true;
      server_.recalled_at.reset();
    }
    server_.ends = now_ + kLease;
    grant_head_ = head_;
    acquiring_ = false;
    if (Chance(10)) {  // the answer gets lost
      return Later(input::AcquireFailed{absl::UnavailableError("lost")});
    }
    Later(input::Granted{Epoch(server_.epoch), Seq(head_), kLease, asked_at});
  }
  void Do(const action::CancelAcquire&) {
    std::erase_if(answers_, [](const Answer& answer) {
      return std::holds_alternative<input::Granted>(answer.input);
    });
  }
  void Do(const action::Renew& a) {
    if (!token_up_) {
      return Later(input::RenewFailed{a.epoch, absl::UnavailableError("down")});
    }
    const bool late = server_.recalled_at && now_ - *server_.recalled_at > kRecallDeadline;
    if (!server_.ours || server_.epoch != a.epoch.value() || late) {
      return Later(input::RenewFailed{a.epoch, absl::FailedPreconditionError("not yours")});
    }
    server_.ends = now_ + kLease;
    Later(input::RenewOk{a.epoch, kLease, server_.recalled_at.has_value(), now_});
  }
  void Do(const action::Release& a) {
    // Safety: nothing of ours under this epoch may still be on its way.
    EXPECT_EQ(append_epoch_, 0u) << Where();
    EXPECT_TRUE(a.epoch.value() != held_epoch_ || confirmed_ >= held_last_) << Where();
    EXPECT_FALSE(gate_open_ && gate_epoch_ != 0) << Where();
    if (!token_up_) {
      return Later(input::ReleaseDone{a.epoch, absl::UnavailableError("down")});
    }
    releasing_ = true;
    absl::Status status = absl::FailedPreconditionError("not yours");
    if (server_.ours && server_.epoch == a.epoch.value()) {
      server_.ours = false;
      status = absl::OkStatus();
    }
    releasing_ = false;
    Later(input::ReleaseDone{a.epoch, status});
  }
  void Do(const action::OpenGate& a) {
    gate_open_ = true;
    gate_epoch_ = a.epoch.value();
    EXPECT_TRUE(gate_epoch_ != 0 || options_.offline_writes) << Where();
    parked_ = false;
    parked_since_.reset();
  }
  void Do(const action::CloseGate&) {
    gate_open_ = false;
    closed_epoch_ = std::exchange(gate_epoch_, 0);
  }
  void Do(const action::Quiesce& a) {
    EXPECT_FALSE(gate_open_);
    last_origin_ += Pick(3);  // what the cut made
    if (closed_epoch_ != 0) held_last_ = last_origin_;
    Later(input::Quiet{a.generation, last_origin_});
  }
  void Do(const action::FlushMappings&) {
    EXPECT_TRUE(gate_open_) << "mappings are flushed through the gate" << Where();
    Later(input::Flushed{});
  }
  void Do(const action::StartAppend& a) {
    EXPECT_FALSE(reconciling_) << Where();
    EXPECT_GE(cursor_, grant_head_) << "appended before what others wrote was applied" << Where();
    append_epoch_ = held_epoch_ = a.epoch.value();
  }
  void Do(const action::StopAppend&) { append_epoch_ = 0; }
  void Do(const action::FailParked&) {
    parked_ = false;
    parked_since_.reset();
  }
  void Do(const action::RestartForward&) { stream_up_ = false; }
  void Do(const action::JoinGranted&) { ADD_FAILURE(); }
  void Do(const action::Reconcile&) {
    EXPECT_EQ(append_epoch_, 0u) << Where();
    reconciling_ = true;
    Later(input::Reconciled{});
  }
  void Do(const action::Stopped&) { ADD_FAILURE(); }

  bool Settled() const {
    return connection_.phase() == Phase::kConnected && confirmed_ == last_origin_ &&
           cursor_ == head_ && !parked_ && last_origin_ > 0;
  }

  std::string Where() const {
    return absl::StrCat(" at ", absl::FormatDuration(now_), ": ", PhaseName(connection_.phase()),
                        ", token ", TokenName(connection_.token()), ", gate ",
                        gate_open_ ? "open" : "closed", " ", gate_epoch_, ", cursor ", cursor_, "/",
                        head_, ", confirmed ", confirmed_, "/", last_origin_, ", token service ",
                        token_up_, " journal ", journal_up_, " forwarder ", forwarder_up_,
                        ", parked ", parked_);
  }

  std::mt19937_64 random_;
  const Connection::Options options_;
  Monotonic now_;
  Monotonic last_now_;
  bool token_up_ = true, forwarder_up_ = true, journal_up_ = true, calm_ = false;
  ServerToken server_;
  std::vector<Answer> answers_;
  bool acquiring_ = false, releasing_ = false;
  bool reconciling_ = false;
  bool stream_up_ = false;
  uint64_t head_ = 0, cursor_ = 0, grant_head_ = 0;
  uint64_t last_origin_ = 0, confirmed_ = 0;
  uint64_t append_epoch_ = 0;
  uint64_t held_epoch_ = 0;    // last one under which something was appended
  uint64_t held_last_ = 0;     // last record made under a token
  uint64_t closed_epoch_ = 0;  // the gate's before it was closed
  bool gate_open_ = false;
  uint64_t gate_epoch_ = 0;
  bool parked_ = false;
  std::optional<Monotonic> parked_since_;
  Connection connection_;
};

TEST(ConnectionRandomTest, RulesHoldAndTheWorldSettles) {
  for (uint64_t seed = 1; seed <= 2000; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    World world(seed);
    world.Storm(300);
    world.Clear();
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace intermezzo::sidecar
