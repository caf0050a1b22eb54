// The rules by which a replica stands to the server (session/connection.h), one by one.
#include "services/sidecar/session/connection.h"

#include <errno.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "services/common/status/errno.h"

namespace intermezzo::sidecar {
namespace {

using Phase = Connection::Phase;
using Token = Connection::Token;
using testing::IsEmpty;

constexpr absl::Duration kLease = absl::Seconds(10);

// A connection with its clock; keeps the actions of the last step.
class Driver {
 public:
  explicit Driver(Connection::Options options = {}, Seq cursor = Seq(0), uint64_t last_origin = 0,
                  uint64_t confirmed = 0)
      : connection(options, cursor, last_origin, confirmed, absl::ZeroDuration()) {}

  Driver& In(const Input& input) {
    actions = connection.Step(input, now);
    return *this;
  }
  Driver& After(absl::Duration duration) {
    now += duration;
    return In(input::Tick{});
  }
  Driver& Heard(uint64_t head) { return In(input::HeadSeen{Seq(head), now}); }
  Driver& Granted(uint64_t epoch, uint64_t head) {
    return In(input::Granted{Epoch(epoch), Seq(head), kLease, now});
  }
  // Joined, in contact, nothing missing.
  Driver& Connect(uint64_t head = 0) {
    In(input::Joined{});
    In(input::CursorMoved{Seq(head)});
    Heard(head);
    EXPECT_EQ(connection.phase(), Phase::kConnected);
    return *this;
  }
  Driver& Hold(uint64_t epoch, uint64_t head = 0) {
    In(input::WritersWaiting{});
    Granted(epoch, head);
    EXPECT_EQ(connection.token(), Token::kHeld);
    return *this;
  }
  template <typename T>
  const T* Find() const {
    for (const Action& action : actions) {
      if (const T* found = std::get_if<T>(&action)) return found;
    }
    return nullptr;
  }
  template <typename T>
  bool Did() const {
    return Find<T>() != nullptr;
  }
  // Answers the Quiesce of the last step.
  Driver& Quiet(uint64_t last_origin) {
    const auto* quiesce = Find<action::Quiesce>();
    EXPECT_NE(quiesce, nullptr);
    if (quiesce == nullptr) return *this;
    return In(input::Quiet{quiesce->generation, last_origin});
  }

  Connection connection;
  Monotonic now;
  std::vector<Action> actions;
};

TEST(ConnectionTest, NothingIsAppendedWhileRecordsAreReconciled) {
  Driver d;
  d.Connect().Hold(5);
  d.In(input::LocalRecords{1});
  d.In(input::Diverged{});  // refused
  EXPECT_TRUE(d.Did<action::StopAppend>());
  EXPECT_TRUE(d.Did<action::Reconcile>());
  EXPECT_TRUE(d.Did<action::CloseGate>());
  EXPECT_EQ(d.connection.token(), Token::kNone);
  EXPECT_EQ(d.connection.phase(), Phase::kReconnecting);
  d.Quiet(1);
  d.After(absl::Seconds(1)).Heard(0);
  EXPECT_FALSE(d.Did<action::Acquire>());
  // A grant that was under way is of no use now.
  d.Granted(6, 0);
  EXPECT_FALSE(d.Did<action::StartAppend>());
  EXPECT_EQ(d.connection.token(), Token::kNone);
  d.In(input::Reconciled{});
  EXPECT_TRUE(d.Did<action::Acquire>());
  d.Granted(6, 0);
  EXPECT_TRUE(d.Did<action::StartAppend>());
}

TEST(ConnectionTest, ReconcilingIsNotConnected) {
  Driver d;
  d.Connect();
  d.In(input::Diverged{});
  EXPECT_TRUE(d.Did<action::Reconcile>());
  EXPECT_EQ(d.connection.phase(), Phase::kReconnecting);
  d.In(input::WritersWaiting{}).Heard(0);
  EXPECT_FALSE(d.Did<action::Acquire>());
  EXPECT_EQ(d.connection.phase(), Phase::kReconnecting);
  d.In(input::Reconciled{});
  EXPECT_EQ(d.connection.phase(), Phase::kConnected);
  EXPECT_TRUE(d.Did<action::Acquire>());
}

TEST(ConnectionTest, FirstWriterGetsTheToken) {
  Driver d;
  d.Connect();
  d.In(input::WritersWaiting{});
  ASSERT_TRUE(d.Did<action::Acquire>());
  EXPECT_FALSE(d.connection.gate_open());
  d.Granted(1, 0);
  EXPECT_EQ(d.Find<action::StartAppend>()->epoch, Epoch(1));
  EXPECT_EQ(d.Find<action::OpenGate>()->epoch, Epoch(1));
}

TEST(ConnectionTest, ASecondWriterAsksNoSecondTime) {
  Driver d;
  d.Connect().In(input::WritersWaiting{});
  d.In(input::WritersWaiting{});
  EXPECT_THAT(d.actions, IsEmpty());
}

TEST(ConnectionTest, GateOpensOnlyAtTheGrantsHead) {
  Driver d;
  d.Connect(5).In(input::WritersWaiting{});
  d.Granted(2, 9);
  EXPECT_FALSE(d.Did<action::OpenGate>());
  EXPECT_FALSE(d.Did<action::StartAppend>());
  d.In(input::CursorMoved{Seq(8)});
  EXPECT_FALSE(d.Did<action::OpenGate>());
  d.In(input::CursorMoved{Seq(9)});
  EXPECT_TRUE(d.Did<action::OpenGate>());
}

TEST(ConnectionTest, RecallFlushesClosesConfirmsReleases) {
  Driver d;
  d.Connect().Hold(3);
  d.In(input::Recalled{Epoch(3)});
  ASSERT_TRUE(d.Did<action::FlushMappings>());
  EXPECT_TRUE(d.connection.gate_open());  // what is flushed has to come through
  d.In(input::Flushed{});
  EXPECT_TRUE(d.Did<action::CloseGate>());
  d.Quiet(7);
  EXPECT_FALSE(d.Did<action::Release>());
  d.In(input::JournalConfirmed{6});
  EXPECT_FALSE(d.Did<action::Release>());
  d.In(input::JournalConfirmed{7});
  EXPECT_TRUE(d.Did<action::StopAppend>());
  EXPECT_EQ(d.Find<action::Release>()->epoch, Epoch(3));
  d.In(input::ReleaseDone{Epoch(3), absl::OkStatus()});
  EXPECT_EQ(d.connection.token(), Token::kNone);
  EXPECT_EQ(d.connection.phase(), Phase::kConnected);
}

TEST(ConnectionTest, RecallOfAnotherEpochIsIgnored) {
  Driver d;
  d.Connect().Hold(3);
  EXPECT_THAT(d.In(input::Recalled{Epoch(2)}).actions, IsEmpty());
}

TEST(ConnectionTest, RecallThatOvertakesItsGrantIsKept) {
  Driver d;
  d.Connect().In(input::WritersWaiting{});
  EXPECT_THAT(d.In(input::Recalled{Epoch(4)}).actions, IsEmpty());
  d.Granted(4, 0);
  // The waiting writers are let in first.
  EXPECT_TRUE(d.Did<action::OpenGate>());
  EXPECT_TRUE(d.Did<action::FlushMappings>());
}

TEST(ConnectionTest, RecallOfAGrantThatGotLostIsReleasedBeforeTheNextAcquire) {
  Driver d;
  d.Connect();
  d.In(input::Recalled{Epoch(4)});
  EXPECT_EQ(d.Find<action::Release>()->epoch, Epoch(4));
  d.In(input::WritersWaiting{});
  EXPECT_FALSE(d.Did<action::Acquire>());
  d.In(input::ReleaseDone{Epoch(4), absl::FailedPreconditionError("not yours")});
  EXPECT_TRUE(d.Did<action::Acquire>());
}

TEST(ConnectionTest, WritersParkedDuringARecallAskAgainAfterTheRelease) {
  Driver d;
  d.Connect().Hold(1);
  d.In(input::Recalled{Epoch(1)}).In(input::Flushed{}).Quiet(0);
  ASSERT_TRUE(d.Did<action::Release>());
  d.In(input::WritersWaiting{});
  EXPECT_FALSE(d.Did<action::Acquire>());
  d.In(input::ReleaseDone{Epoch(1), absl::OkStatus()});
  EXPECT_TRUE(d.Did<action::Acquire>());
}

TEST(ConnectionTest, IdleTokenStays) {
  Driver d;
  d.Connect().Hold(1);
  for (int i = 0; i < 100; ++i) {
    d.After(absl::Seconds(1)).Heard(0);
    d.In(input::RenewOk{Epoch(1), kLease, false, d.now});
  }
  EXPECT_EQ(d.connection.token(), Token::kHeld);
  EXPECT_TRUE(d.connection.gate_open());
}

TEST(ConnectionTest, RenewsAfterAThirdOfTheLease) {
  Driver d;
  d.Connect().Hold(1);
  EXPECT_EQ(d.connection.NextTick(), absl::Seconds(3));  // to look at the stream's silence
  d.After(absl::Seconds(3)).Heard(0);
  EXPECT_FALSE(d.Did<action::Renew>());
  d.After(kLease / 3 - absl::Seconds(3));
  EXPECT_TRUE(d.Did<action::Renew>());
  d.After(absl::Milliseconds(10));
  EXPECT_FALSE(d.Did<action::Renew>());  // one at a time
}

TEST(ConnectionTest, RenewAnswerCanRecall) {
  Driver d;
  d.Connect().Hold(1);
  d.In(input::RenewOk{Epoch(1), kLease, true, d.now});
  EXPECT_TRUE(d.Did<action::FlushMappings>());
}

TEST(ConnectionTest, LeaseCountsFromBeforeTheRequestAndEndsEarly) {
  Driver d;
  d.Connect().In(input::WritersWaiting{});
  const Monotonic asked_at = d.now;
  d.now += absl::Seconds(4);  // the token was queued for
  d.In(input::HeadSeen{Seq(0), d.now});
  d.In(input::Granted{Epoch(1), Seq(0), kLease, asked_at});
  EXPECT_TRUE(d.connection.gate_open());
  EXPECT_EQ(d.connection.lease_end(), asked_at + kLease - absl::Seconds(1));
  d.In(input::RenewFailed{Epoch(1), absl::UnavailableError("")});
  d.After(absl::Seconds(5));
  EXPECT_TRUE(d.Did<action::CloseGate>());
  EXPECT_NE(d.connection.token(), Token::kHeld);
}

TEST(ConnectionTest, GrantOlderThanItsLeaseIsRenewedBeforeTheGateOpens) {
  Driver d;
  d.Connect().In(input::WritersWaiting{});
  const Monotonic asked_at = d.now;
  d.now += absl::Seconds(20);
  d.Heard(0);
  d.In(input::Granted{Epoch(1), Seq(0), kLease, asked_at});
  EXPECT_FALSE(d.Did<action::OpenGate>());
  EXPECT_TRUE(d.Did<action::Renew>());
  d.In(input::RenewOk{Epoch(1), kLease, false, d.now});
  EXPECT_TRUE(d.Did<action::OpenGate>());
}

TEST(ConnectionTest, LostTokenClosesTheGateAndPendingRecordsNeedANewGrant) {
  Driver d;
  d.Connect().Hold(1);
  d.In(input::LocalRecords{5}).In(input::JournalConfirmed{3});
  d.In(input::StaleEpoch{Epoch(1)});
  EXPECT_TRUE(d.Did<action::CloseGate>());
  EXPECT_TRUE(d.Did<action::StopAppend>());
  EXPECT_EQ(d.connection.phase(), Phase::kReconnecting);
  d.Quiet(6);
  ASSERT_TRUE(d.Did<action::Acquire>());
  d.Granted(3, 10);
  EXPECT_FALSE(d.Did<action::StartAppend>());  // first what others wrote
  d.In(input::CursorMoved{Seq(10)});
  EXPECT_EQ(d.Find<action::StartAppend>()->epoch, Epoch(3));
  EXPECT_EQ(d.connection.phase(), Phase::kReconnecting);
  d.In(input::JournalConfirmed{6});
  EXPECT_EQ(d.connection.phase(), Phase::kConnected);
}

TEST(ConnectionTest, RenewRefusedLosesTheToken) {
  Driver d;
  d.Connect().Hold(1);
  d.In(input::RenewFailed{Epoch(1), absl::FailedPreconditionError("")});
  EXPECT_TRUE(d.Did<action::CloseGate>());
  EXPECT_EQ(d.connection.token(), Token::kNone);
}

TEST(ConnectionTest, SilentForwarderDisconnects) {
  Driver d;
  d.Connect();
  d.After(absl::Seconds(2));
  EXPECT_EQ(d.connection.phase(), Phase::kConnected);
  d.After(absl::Seconds(1));
  EXPECT_EQ(d.connection.phase(), Phase::kDisconnected);
  EXPECT_TRUE(d.Did<action::RestartForward>());
  EXPECT_EQ(d.Find<action::OpenGate>()->epoch, Epoch(0));
}

TEST(ConnectionTest, OfflineWritesDenied) {
  Driver d({.offline_writes = false});
  d.Connect();
  d.After(absl::Seconds(3));
  EXPECT_EQ(d.connection.phase(), Phase::kDisconnected);
  EXPECT_FALSE(d.connection.gate_open());
  d.In(input::WritersWaiting{});
  ASSERT_TRUE(d.Did<action::FailParked>());
  EXPECT_EQ(ErrnoFromStatus(d.Find<action::FailParked>()->status), EROFS);
}

TEST(ConnectionTest, HolderKeepsWritingWhileOnlyTheForwarderIsAway) {
  Driver d;
  d.Connect().Hold(1);
  d.After(absl::Seconds(3)).In(input::RenewOk{Epoch(1), kLease, false, d.now});
  d.After(absl::Seconds(3)).In(input::RenewOk{Epoch(1), kLease, false, d.now});
  EXPECT_EQ(d.connection.phase(), Phase::kConnected);
  EXPECT_TRUE(d.connection.gate_open());
}

TEST(ConnectionTest, LapsedLeaseGoesOnWithoutAToken) {
  Driver d;
  d.Connect().Hold(1);
  d.In(input::StreamDown{});
  d.After(absl::Seconds(4));
  d.In(input::RenewFailed{Epoch(1), absl::UnavailableError("")});
  EXPECT_TRUE(d.connection.gate_open());
  d.After(absl::Seconds(5));
  EXPECT_TRUE(d.Did<action::StopAppend>());
  EXPECT_EQ(d.Find<action::OpenGate>()->epoch, Epoch(0));
  EXPECT_EQ(d.connection.phase(), Phase::kDisconnected);
  EXPECT_EQ(d.connection.epoch(), Epoch());
}

TEST(ConnectionTest, AcquireUnavailableDisconnectsAfterAWhile) {
  Driver d;
  d.Connect().In(input::WritersWaiting{});
  int asked = 0;
  while (d.connection.phase() == Phase::kConnected) {
    d.Heard(0);
    if (d.connection.token() == Token::kAcquiring) {
      ++asked;
      d.In(input::AcquireFailed{absl::UnavailableError("refused")});
    }
    if (d.connection.phase() == Phase::kConnected) d.After(absl::Milliseconds(100));
  }
  EXPECT_EQ(d.now, absl::Seconds(3));
  EXPECT_GT(asked, 5);
  EXPECT_EQ(d.connection.phase(), Phase::kDisconnected);
  EXPECT_TRUE(d.connection.gate_open());
  // It asks on, with the gate open, and comes back with the grant.
  d.Heard(0).After(absl::Seconds(1));
  d.Heard(0);
  ASSERT_EQ(d.connection.token(), Token::kAcquiring);
  EXPECT_TRUE(d.connection.gate_open());
  d.Granted(5, 0);
  EXPECT_TRUE(d.Did<action::CloseGate>());
  d.Quiet(2);
  EXPECT_EQ(d.Find<action::OpenGate>()->epoch, Epoch(5));
}

TEST(ConnectionTest, ReconnectionPullsFirstThenReintegrates) {
  Driver d;
  d.Connect(4);
  d.After(absl::Seconds(3));
  ASSERT_EQ(d.connection.phase(), Phase::kDisconnected);
  d.In(input::LocalRecords{3});
  d.Heard(20);
  EXPECT_EQ(d.connection.phase(), Phase::kReconnecting);
  EXPECT_TRUE(d.connection.gate_open());  // local writes go on
  EXPECT_FALSE(d.Did<action::Acquire>());
  d.In(input::CursorMoved{Seq(19)});
  EXPECT_FALSE(d.Did<action::Acquire>());
  d.In(input::CursorMoved{Seq(20)});
  ASSERT_TRUE(d.Did<action::Acquire>());
  EXPECT_TRUE(d.connection.gate_open());
  d.Granted(9, 22);
  EXPECT_TRUE(d.Did<action::CloseGate>());
  d.Quiet(4);
  EXPECT_FALSE(d.Did<action::StartAppend>());
  d.In(input::CursorMoved{Seq(22)});
  EXPECT_EQ(d.Find<action::StartAppend>()->epoch, Epoch(9));
  EXPECT_EQ(d.Find<action::OpenGate>()->epoch, Epoch(9));
  EXPECT_EQ(d.connection.phase(), Phase::kReconnecting);
  d.In(input::JournalConfirmed{4});
  EXPECT_EQ(d.connection.phase(), Phase::kConnected);
}

TEST(ConnectionTest, ReconnectionWithNothingPendingTakesNoToken) {
  Driver d;
  d.Connect();
  d.After(absl::Seconds(3));
  d.Heard(0);
  EXPECT_TRUE(d.Did<action::CloseGate>());
  d.Quiet(0);
  EXPECT_EQ(d.connection.phase(), Phase::kConnected);
  EXPECT_EQ(d.connection.token(), Token::kNone);
}

TEST(ConnectionTest, RecordsFoundWhenTheGateClosesAreReintegrated) {
  Driver d;
  d.Connect();
  d.After(absl::Seconds(3));
  d.Heard(0);
  d.Quiet(1);  // the cut made one
  EXPECT_TRUE(d.Did<action::Acquire>());
  EXPECT_EQ(d.connection.phase(), Phase::kReconnecting);
}

TEST(ConnectionTest, StartWithPendingRecordsReintegratesThem) {
  Driver d({}, Seq(7), 12, 10);
  d.In(input::Joined{});
  EXPECT_FALSE(d.Did<action::Acquire>());
  d.Heard(7);
  EXPECT_TRUE(d.Did<action::Acquire>());
}

TEST(ConnectionTest, StartWithoutAServerWorksOnItsOwn) {
  Driver d;
  d.In(input::Joined{});
  d.In(input::WritersWaiting{});
  EXPECT_THAT(d.actions, IsEmpty());
  d.After(absl::Seconds(3));
  EXPECT_EQ(d.connection.phase(), Phase::kDisconnected);
  EXPECT_TRUE(d.Did<action::OpenGate>());
}

TEST(ConnectionTest, WaitingForTheTokenIsBounded) {
  Driver d({.token_wait = absl::Seconds(30)});
  d.Connect().In(input::WritersWaiting{});
  for (int i = 0; i < 29; ++i) d.After(absl::Seconds(1)).Heard(0);
  EXPECT_FALSE(d.Did<action::FailParked>());
  d.After(absl::Seconds(1));
  ASSERT_TRUE(d.Did<action::FailParked>());
  EXPECT_EQ(ErrnoFromStatus(d.Find<action::FailParked>()->status), EIO);
}

TEST(ConnectionTest, WaitingForAnUnreachableHeadIsBounded) {
  Driver d;
  d.Connect().In(input::WritersWaiting{});
  d.Granted(1, 100);
  for (int i = 0; i < 29; ++i) {
    d.After(absl::Seconds(1)).Heard(100);
    d.In(input::RenewOk{Epoch(1), kLease, false, d.now});
    EXPECT_FALSE(d.connection.gate_open());
  }
  d.After(absl::Seconds(1));
  EXPECT_TRUE(d.Did<action::FailParked>());
}

TEST(ConnectionTest, GrantWhoseHeadCannotComeIsGivenBackWhenTheForwarderIsSilent) {
  Driver d;
  d.Connect().In(input::WritersWaiting{});
  d.Granted(1, 100);
  d.After(absl::Seconds(3));
  EXPECT_EQ(d.connection.phase(), Phase::kDisconnected);
  EXPECT_EQ(d.Find<action::Release>()->epoch, Epoch(1));
  EXPECT_EQ(d.Find<action::OpenGate>()->epoch, Epoch(0));
}

TEST(ConnectionTest, BrokenClosesTheGateAndFailsWriters) {
  Driver d;
  d.Connect().Hold(1);
  d.In(input::LocalRecords{2});
  d.In(input::Broken{absl::AbortedError("conflict")});
  EXPECT_TRUE(d.Did<action::CloseGate>());
  EXPECT_TRUE(d.Did<action::StopAppend>());
  EXPECT_FALSE(d.Did<action::Release>());  // not all of it is in the journal
  EXPECT_EQ(d.connection.phase(), Phase::kFailed);
  d.In(input::WritersWaiting{});
  ASSERT_TRUE(d.Did<action::FailParked>());
  EXPECT_EQ(ErrnoFromStatus(d.Find<action::FailParked>()->status), EIO);
  EXPECT_TRUE(d.In(input::Stop{}).Did<action::Stopped>());
}

TEST(ConnectionTest, StopHandsEverythingBack) {
  Driver d;
  d.Connect().Hold(1);
  d.In(input::Stop{});
  EXPECT_TRUE(d.Did<action::FlushMappings>());
  d.In(input::Flushed{}).Quiet(2);
  d.In(input::WritersWaiting{});
  ASSERT_TRUE(d.Did<action::FailParked>());
  EXPECT_EQ(ErrnoFromStatus(d.Find<action::FailParked>()->status), EAGAIN);
  d.In(input::JournalConfirmed{2});
  EXPECT_TRUE(d.Did<action::Release>());
  EXPECT_FALSE(d.Did<action::Stopped>());
  d.In(input::ReleaseDone{Epoch(1), absl::OkStatus()});
  EXPECT_TRUE(d.Did<action::Stopped>());
}

TEST(ConnectionTest, StopWhileDisconnectedCutsAndEnds) {
  Driver d;
  d.Connect();
  d.After(absl::Seconds(3));
  d.In(input::Stop{});
  EXPECT_TRUE(d.Did<action::CloseGate>());
  d.Quiet(4);
  EXPECT_TRUE(d.Did<action::Stopped>());
}

TEST(ConnectionTest, StopWhileQueuedGivesThePlaceUp) {
  Driver d;
  d.Connect().In(input::WritersWaiting{});
  d.In(input::Stop{});
  EXPECT_TRUE(d.Did<action::CancelAcquire>());
  EXPECT_TRUE(d.Did<action::Stopped>());
}

TEST(ConnectionTest, ImportHasTheTokenWithTheGateClosed) {
  Driver d;
  d.In(input::JoinWantsToken{true});
  ASSERT_TRUE(d.Did<action::Acquire>());
  d.Granted(1, 0);
  EXPECT_TRUE(d.Did<action::JoinGranted>());
  EXPECT_TRUE(d.Did<action::StartAppend>());
  EXPECT_FALSE(d.connection.gate_open());
  d.In(input::LocalRecords{50});
  d.In(input::Joined{});
  EXPECT_TRUE(d.Did<action::OpenGate>());
  EXPECT_EQ(d.connection.phase(), Phase::kReconnecting);
  d.Heard(10).In(input::JournalConfirmed{50});
  EXPECT_EQ(d.connection.phase(), Phase::kConnected);
}

TEST(ConnectionTest, ImportReleasesOnRecallWhatWasMadeByThen) {
  Driver d;
  d.In(input::JoinWantsToken{true}).Granted(1, 0);
  d.In(input::Recalled{Epoch(1)});
  EXPECT_FALSE(d.Did<action::Release>());  // nobody would know that it has begun
  d.In(input::LocalRecords{50});
  d.In(input::JoinAllowsRecall{});
  EXPECT_FALSE(d.Did<action::Release>());
  d.In(input::LocalRecords{60});
  d.In(input::JournalConfirmed{50});
  EXPECT_TRUE(d.Did<action::Release>());
}

TEST(ConnectionTest, ImportGivesUpTheTokenItNoLongerWants) {
  Driver d;
  d.In(input::JoinWantsToken{true}).Granted(1, 30);
  EXPECT_EQ(d.Find<action::JoinGranted>()->head, Seq(30));
  d.In(input::JoinWantsToken{false});
  EXPECT_TRUE(d.Did<action::Release>());
}

}  // namespace
}  // namespace intermezzo::sidecar
