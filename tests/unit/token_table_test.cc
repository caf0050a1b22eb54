// The token table, rule by rule.
#include "services/token-service/core/token_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace intermezzo::token {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

const Holder kA{"a", "a-1"};
const Holder kB{"b", "b-1"};
const Holder kC{"c", "c-1"};
const Holder kNobody;

// "persist www 1 a", "fence www 1", "grant 7 epoch 1 head 5", "answer 7 NOT_FOUND", "recall a 1";
// changes of hands are left out.
std::vector<std::string> Told(const Actions& actions) {
  std::vector<std::string> told;
  for (const Action& action : actions) {
    if (auto* persist = std::get_if<PersistGrant>(&action)) {
      told.push_back(absl::StrCat("persist ", persist->epoch.value(), " ",
                                  persist->holder.node.empty() ? "-" : persist->holder.node));
    } else if (auto* fence = std::get_if<Fence>(&action)) {
      told.push_back(absl::StrCat("fence ", fence->epoch.value()));
    } else if (auto* grant = std::get_if<Grant>(&action)) {
      told.push_back(absl::StrCat("grant ", grant->request, " epoch ", grant->epoch.value(),
                                  " head ", grant->head_seq.value()));
    } else if (auto* answer = std::get_if<Answer>(&action)) {
      told.push_back(absl::StrCat("answer ", answer->request, " ",
                                  absl::StatusCodeToString(answer->status.code())));
    } else if (auto* recall = std::get_if<SendRecall>(&action)) {
      told.push_back(absl::StrCat("recall ", recall->holder.node, " ", recall->epoch.value()));
    }
  }
  return told;
}

class TokenTableTest : public ::testing::Test {
 protected:
  TokenTableTest() { table_.AddCollection("www", Epoch()); }

  std::vector<std::string> Acquire(const Holder& holder, RequestId request) {
    return Told(table_.Acquire("www", holder, request, now_));
  }
  // Persists and fences.
  std::vector<std::string> Complete(uint64_t epoch, uint64_t head = 0) {
    EXPECT_THAT(Told(table_.Persisted("www", Epoch(epoch), now_)),
                ElementsAre(absl::StrCat("fence ", epoch)));
    return Told(table_.FenceDone("www", Epoch(epoch), Seq(head), now_));
  }
  void Give(const Holder& holder, uint64_t epoch) {
    Acquire(holder, 1000 + epoch);
    Complete(epoch);
    ASSERT_EQ(table_.View("www", now_)->holder, holder.node);
  }
  std::vector<std::string> Tick() { return Told(table_.Tick(now_)); }
  absl::StatusOr<Renewal> Renew(const Holder& holder, uint64_t epoch) {
    actions_.clear();
    return table_.Renew("www", holder, Epoch(epoch), now_, actions_);
  }
  absl::Status Release(const Holder& holder, uint64_t epoch) {
    actions_.clear();
    return table_.Release("www", holder, Epoch(epoch), now_, actions_);
  }

  const TokenLimits limits_{.lease = absl::Seconds(10),
                            .minimum_hold = absl::Milliseconds(50),
                            .recall_deadline = absl::Seconds(5),
                            .queue_places = 3,
                            .requests_per_place = 2};
  TokenTable table_{limits_};
  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
  Actions actions_;
};

TEST_F(TokenTableTest, DurableThenFencedThenAnswered) {
  EXPECT_THAT(Acquire(kA, 7), ElementsAre("persist 1 a"));
  EXPECT_THAT(Told(table_.FenceDone("www", Epoch(1), Seq(5), now_)), IsEmpty());
  EXPECT_THAT(Told(table_.Persisted("www", Epoch(1), now_)), ElementsAre("fence 1"));
  EXPECT_THAT(Told(table_.Persisted("www", Epoch(1), now_)), IsEmpty());
  EXPECT_THAT(Told(table_.FenceDone("www", Epoch(1), Seq(5), now_)),
              ElementsAre("grant 7 epoch 1 head 5"));
  EXPECT_THAT(Told(table_.FenceDone("www", Epoch(1), Seq(6), now_)), IsEmpty());
}

TEST_F(TokenTableTest, HolderThatAsksAgainGetsItsGrantAgain) {
  Acquire(kA, 1);
  Complete(1, 5);
  now_ += absl::Seconds(6);
  EXPECT_THAT(Acquire(kA, 2), ElementsAre("grant 2 epoch 1 head 5"));
  now_ += absl::Seconds(9);  // the lease runs from the second answer
  EXPECT_TRUE(Renew(kA, 1).ok());
}

TEST_F(TokenTableTest, CallsOfANodeShareItsPlaceAndItsGrant) {
  Acquire(kA, 1);
  EXPECT_THAT(Acquire(kA, 2), IsEmpty());
  EXPECT_THAT(Acquire(kA, 3), ElementsAre("answer 1 ABORTED"));
  EXPECT_THAT(Complete(1), ElementsAre("grant 2 epoch 1 head 0", "grant 3 epoch 1 head 0"));
}

TEST_F(TokenTableTest, QueueIsFairAndBounded) {
  Give(kA, 1);
  Acquire(kB, 1);
  Acquire(kC, 2);
  Acquire({"d", "d-1"}, 3);
  Acquire(kB, 4);  // has its place already
  EXPECT_THAT(table_.View("www", now_)->queue, ElementsAre("b", "c", "d"));
  EXPECT_THAT(Acquire({"e", "e-1"}, 5), ElementsAre("answer 5 RESOURCE_EXHAUSTED"));

  ASSERT_TRUE(Release(kA, 1).ok());
  EXPECT_THAT(Told(actions_), ElementsAre("persist 2 b"));
  Acquire(kA, 6);  // behind the others
  EXPECT_THAT(Complete(2), ElementsAre("grant 1 epoch 2 head 0", "grant 4 epoch 2 head 0"));
  EXPECT_THAT(table_.View("www", now_)->queue, ElementsAre("c", "d", "a"));
}

TEST_F(TokenTableTest, RecallsAfterTheMinimumHold) {
  Give(kA, 1);
  now_ += absl::Milliseconds(20);
  EXPECT_THAT(Acquire(kB, 1), IsEmpty());
  EXPECT_EQ(table_.NextDeadline(), now_ + absl::Milliseconds(30));
  now_ += absl::Milliseconds(29);
  EXPECT_THAT(Tick(), IsEmpty());
  now_ += absl::Milliseconds(1);
  EXPECT_THAT(Tick(), ElementsAre("recall a 1"));
  EXPECT_THAT(Tick(), IsEmpty());
  EXPECT_TRUE(Renew(kA, 1)->recalled);
  // Subscribing again brings it again, to the holder only.
  EXPECT_THAT(Told(table_.Resubscribe(kA)), ElementsAre("recall a 1"));
  EXPECT_THAT(Told(table_.Resubscribe(kB)), IsEmpty());
}

TEST_F(TokenTableTest, RecallsAtOnceWhereItWasHeldLongEnough) {
  Give(kA, 1);
  now_ += absl::Seconds(1);
  EXPECT_THAT(Acquire(kB, 1), ElementsAre("recall a 1"));
}

TEST_F(TokenTableTest, IdleTokenStays) {
  Give(kA, 1);
  for (int i = 0; i < 100; ++i) {
    now_ += absl::Seconds(9);
    EXPECT_THAT(Tick(), IsEmpty());
    ASSERT_TRUE(Renew(kA, 1).ok());
    EXPECT_FALSE(Renew(kA, 1)->recalled);
  }
}

TEST_F(TokenTableTest, SilentHolderLosesItAtTheEndOfItsLease) {
  Give(kA, 1);
  Acquire(kB, 1);
  now_ += absl::Seconds(10) - absl::Nanoseconds(1);
  Tick();
  EXPECT_EQ(table_.View("www", now_)->holder, "a");
  now_ += absl::Nanoseconds(1);
  // Also where the timer is late: what comes first finds it expired.
  EXPECT_TRUE(absl::IsFailedPrecondition(Renew(kA, 1).status()));
  EXPECT_THAT(Told(actions_), ElementsAre("persist 2 b"));
  EXPECT_TRUE(absl::IsFailedPrecondition(Release(kA, 1)));
}

TEST_F(TokenTableTest, ExpiryWithNobodyWaitingLeavesItFree) {
  Give(kA, 1);
  EXPECT_EQ(table_.NextDeadline(), now_ + absl::Seconds(10));
  now_ += absl::Seconds(10);
  EXPECT_THAT(Tick(), ElementsAre("persist 1 -"));
  EXPECT_EQ(table_.NextDeadline(), absl::InfiniteFuture());
  EXPECT_THAT(Acquire(kA, 1), ElementsAre("persist 2 a"));
}

TEST_F(TokenTableTest, RecalledHolderCannotRenewBeyondTheDeadline) {
  Give(kA, 1);
  now_ += absl::Seconds(1);
  Acquire(kB, 1);
  now_ += absl::Seconds(5);
  ASSERT_TRUE(Renew(kA, 1).ok());
  const absl::Time lease_end = now_ + absl::Seconds(10);
  now_ += absl::Nanoseconds(1);
  EXPECT_TRUE(absl::IsFailedPrecondition(Renew(kA, 1).status()));
  // Nor by asking for the token: that is a new place in the queue.
  EXPECT_THAT(Acquire(kA, 2), IsEmpty());
  EXPECT_EQ(table_.NextDeadline(), lease_end);
  // It can still release.
  ASSERT_TRUE(Release(kA, 1).ok());
  EXPECT_THAT(Told(actions_), ElementsAre("persist 2 b"));
  EXPECT_THAT(table_.View("www", now_)->queue, ElementsAre("b", "a"));
}

TEST_F(TokenTableTest, ReleaseIsIdempotentAndChecked) {
  Give(kA, 1);
  EXPECT_TRUE(absl::IsFailedPrecondition(Release(kB, 1)));
  EXPECT_TRUE(absl::IsFailedPrecondition(Release({"a", "a-2"}, 1)));
  EXPECT_TRUE(absl::IsFailedPrecondition(Release(kA, 2)));
  EXPECT_TRUE(Release(kA, 1).ok());
  EXPECT_THAT(Told(actions_), ElementsAre("persist 1 -"));
  EXPECT_TRUE(Release(kA, 1).ok());
  EXPECT_THAT(actions_, IsEmpty());
  Give(kB, 2);
  EXPECT_TRUE(Release(kA, 1).ok());
  EXPECT_EQ(table_.View("www", now_)->holder, "b");
}

TEST_F(TokenTableTest, CancelledWaiterIsSkipped) {
  Give(kA, 1);
  Acquire(kB, 1);
  Acquire(kC, 2);
  EXPECT_THAT(Told(table_.CancelAcquire("www", 1, now_)), ElementsAre("answer 1 CANCELLED"));
  EXPECT_THAT(Told(table_.CancelAcquire("www", 1, now_)), IsEmpty());
  ASSERT_TRUE(Release(kA, 1).ok());
  EXPECT_THAT(Told(actions_), ElementsAre("persist 2 c"));
}

TEST_F(TokenTableTest, CancelledDuringItsGrantPassesOnAtOnce) {
  Acquire(kA, 1);
  table_.Persisted("www", Epoch(1), now_);
  Acquire(kB, 2);
  EXPECT_THAT(Told(table_.CancelAcquire("www", 1, now_)),
              ElementsAre("answer 1 CANCELLED", "persist 2 b"));
  // What was under way for epoch 1 comes too late.
  EXPECT_THAT(Told(table_.FenceDone("www", Epoch(1), Seq(5), now_)), IsEmpty());
  EXPECT_THAT(Told(table_.Persisted("www", Epoch(1), now_)), IsEmpty());
  EXPECT_THAT(Told(table_.PersistFailed("www", Epoch(1), absl::UnavailableError(""), now_)),
              IsEmpty());
  EXPECT_THAT(Complete(2), ElementsAre("grant 2 epoch 2 head 0"));
}

TEST_F(TokenTableTest, CancelledDuringItsGrantWithNobodyElseLeavesItFree) {
  Acquire(kA, 1);
  EXPECT_THAT(Told(table_.CancelAcquire("www", 1, now_)),
              ElementsAre("answer 1 CANCELLED", "persist 1 -"));
  // The row that says "free" is of the same epoch; its end is not the grant's.
  EXPECT_THAT(Told(table_.Persisted("www", Epoch(1), now_)), IsEmpty());
  EXPECT_THAT(Acquire(kB, 2), ElementsAre("persist 2 b"));
}

TEST_F(TokenTableTest, FenceThatFailsAnswersEverybody) {
  Acquire(kA, 1);
  Acquire(kB, 2);
  table_.Persisted("www", Epoch(1), now_);
  EXPECT_THAT(Told(table_.FenceFailed("www", Epoch(1), absl::UnavailableError(""), Epoch(), now_)),
              ElementsAre("answer 1 UNAVAILABLE", "answer 2 UNAVAILABLE", "persist 1 -"));
  EXPECT_THAT(Acquire(kA, 3), ElementsAre("persist 2 a"));
}

TEST_F(TokenTableTest, FenceThatKnowsMoreIsTriedAbove) {
  Acquire(kA, 1);
  Acquire(kB, 2);
  table_.Persisted("www", Epoch(1), now_);
  EXPECT_THAT(
      Told(table_.FenceFailed("www", Epoch(1), absl::FailedPreconditionError(""), Epoch(9), now_)),
      ElementsAre("persist 10 a"));
  EXPECT_THAT(Complete(10), ElementsAre("grant 1 epoch 10 head 0"));
}

TEST_F(TokenTableTest, DiskThatFailsAnswersEverybodyAndSkipsTheEpoch) {
  Acquire(kA, 1);
  EXPECT_THAT(Told(table_.PersistFailed("www", Epoch(1), absl::ResourceExhaustedError(""), now_)),
              ElementsAre("answer 1 RESOURCE_EXHAUSTED"));
  EXPECT_THAT(Acquire(kA, 2), ElementsAre("persist 2 a"));
}

TEST_F(TokenTableTest, AdminRecallAsksTheHolder) {
  Give(kA, 1);
  EXPECT_THAT(Told(table_.Recall("www", false, Epoch(), 9, now_)),
              ElementsAre("recall a 1", "answer 9 OK"));
  EXPECT_THAT(Told(table_.Recall("www", false, Epoch(), 10, now_)), ElementsAre("answer 10 OK"));
  ASSERT_TRUE(Release(kA, 1).ok());
  EXPECT_THAT(Told(table_.Recall("www", false, Epoch(), 11, now_)), ElementsAre("answer 11 OK"));
}

TEST_F(TokenTableTest, ForcedRecallFencesBeforeItIsAnswered) {
  Give(kA, 1);
  EXPECT_THAT(Told(table_.Recall("www", true, Epoch(), 9, now_)),
              ElementsAre("recall a 1", "persist 2 -"));
  EXPECT_TRUE(absl::IsFailedPrecondition(Renew(kA, 1).status()));
  EXPECT_THAT(Acquire(kB, 10), IsEmpty());
  EXPECT_THAT(Complete(2), ElementsAre("answer 9 OK", "persist 3 b"));
}

TEST_F(TokenTableTest, ForcedRecallWithAWaiterIsThatWaitersGrant) {
  Give(kA, 1);
  Acquire(kB, 10);
  EXPECT_THAT(Told(table_.Recall("www", true, Epoch(), 9, now_)),
              ElementsAre("recall a 1", "persist 2 b"));
  EXPECT_THAT(Complete(2), ElementsAre("answer 9 OK", "grant 10 epoch 2 head 0"));
}

TEST_F(TokenTableTest, ForcedRecallThatFailedIsOwedStill) {
  Give(kA, 1);
  table_.Recall("www", true, Epoch(), 9, now_);
  table_.Persisted("www", Epoch(2), now_);
  EXPECT_THAT(Told(table_.FenceFailed("www", Epoch(2), absl::UnavailableError(""), Epoch(), now_)),
              ElementsAre("answer 9 UNAVAILABLE", "persist 2 -"));
  EXPECT_THAT(Told(table_.Recall("www", true, Epoch(), 10, now_)), ElementsAre("persist 3 -"));
  EXPECT_THAT(Complete(3), ElementsAre("answer 10 OK"));
  EXPECT_THAT(Told(table_.Recall("www", true, Epoch(), 11, now_)), ElementsAre("answer 11 OK"));
}

TEST_F(TokenTableTest, RecallOfAGrantConcernsThatGrantAlone) {
  Give(kA, 1);
  EXPECT_THAT(Told(table_.Recall("www", true, Epoch(2), 8, now_)),
              ElementsAre("answer 8 FAILED_PRECONDITION"));
  EXPECT_THAT(Told(table_.Recall("www", true, Epoch(1), 9, now_)),
              ElementsAre("recall a 1", "persist 2 -"));
  // While the fence of the first is under way, its repetition waits for it, too.
  EXPECT_THAT(Told(table_.Recall("www", true, Epoch(1), 10, now_)), IsEmpty());
  EXPECT_THAT(Complete(2), ElementsAre("answer 9 OK", "answer 10 OK"));
  Give(kB, 3);
  for (bool force : {false, true}) {
    EXPECT_THAT(Told(table_.Recall("www", force, Epoch(1), 11, now_)), ElementsAre("answer 11 OK"));
  }
  EXPECT_TRUE(Renew(kB, 3).ok());
  EXPECT_FALSE(Renew(kB, 3)->recalled);
}

TEST_F(TokenTableTest, RestartHonoursTheLastHolderForAWholeLease) {
  TokenTable table(limits_);
  table.RestoreGrant("www", Epoch(4), kA, absl::Seconds(3), now_);
  EXPECT_THAT(Told(table.Acquire("www", kB, 1, now_)), IsEmpty());
  now_ += absl::Milliseconds(50);
  EXPECT_THAT(Told(table.Tick(now_)), ElementsAre("recall a 4"));
  now_ += absl::Seconds(9);
  EXPECT_THAT(Told(table.Tick(now_)), IsEmpty());
  now_ += absl::Seconds(1);
  EXPECT_THAT(Told(table.Tick(now_)), ElementsAre("persist 5 b"));
}

TEST_F(TokenTableTest, RestartHonoursALongerLeaseThatWasPromised) {
  TokenTable table(limits_);
  table.RestoreGrant("www", Epoch(4), kA, absl::Seconds(60), now_);
  EXPECT_EQ(table.NextDeadline(), now_ + absl::Seconds(60));
}

TEST_F(TokenTableTest, AfterARestartTheHolderRenewsOrAsksAgain) {
  TokenTable table(limits_);
  table.RestoreGrant("www", Epoch(4), kA, absl::Seconds(10), now_);
  now_ += absl::Seconds(9);
  ASSERT_TRUE(table.Renew("www", kA, Epoch(4), now_, actions_).ok());
  now_ += absl::Seconds(9);
  // The head at its fence is forgotten, so it is fenced again, once for all that ask.
  EXPECT_THAT(Told(table.Acquire("www", kA, 1, now_)), ElementsAre("fence 4"));
  EXPECT_THAT(Told(table.Acquire("www", kA, 2, now_)), IsEmpty());
  EXPECT_THAT(Told(table.FenceDone("www", Epoch(4), Seq(8), now_)),
              ElementsAre("grant 1 epoch 4 head 8", "grant 2 epoch 4 head 8"));
}

TEST_F(TokenTableTest, LeaseThatEndsDuringTheRepeatedFencePutsTheHolderInTheQueue) {
  TokenTable table(limits_);
  table.RestoreGrant("www", Epoch(4), kA, absl::Seconds(10), now_);
  table.Acquire("www", kB, 1, now_);
  table.Acquire("www", kA, 2, now_);
  now_ += absl::Seconds(10);
  EXPECT_THAT(Told(table.FenceDone("www", Epoch(4), Seq(8), now_)), ElementsAre("persist 5 b"));
  EXPECT_THAT(table.View("www", now_)->queue, ElementsAre("b", "a"));
}

TEST_F(TokenTableTest, RestartWithNobodyHoldingGrantsAtOnce) {
  TokenTable table(limits_);
  table.RestoreGrant("www", Epoch(4), kNobody, absl::Seconds(10), now_);
  EXPECT_THAT(Told(table.Acquire("www", kB, 1, now_)), ElementsAre("persist 5 b"));
}

TEST_F(TokenTableTest, NewInstanceTakesTheOldOnesPlace) {
  Give(kA, 1);
  Acquire(kB, 1);
  Acquire(kC, 2);
  EXPECT_THAT(Acquire({"b", "b-2"}, 3), ElementsAre("answer 1 FAILED_PRECONDITION"));
  EXPECT_THAT(table_.View("www", now_)->queue, ElementsAre("b", "c"));
  // But not the old one's grant.
  EXPECT_THAT(Acquire({"a", "a-2"}, 4), IsEmpty());
  EXPECT_THAT(table_.View("www", now_)->queue, ElementsAre("b", "c", "a"));
}

TEST_F(TokenTableTest, DroppedNodeIsRecalledAndLosesItsPlace) {
  Give(kA, 1);
  Acquire(kB, 1);
  now_ += absl::Milliseconds(1);
  EXPECT_THAT(Told(table_.DropNode("www", "b", now_)), ElementsAre("answer 1 PERMISSION_DENIED"));
  EXPECT_THAT(Told(table_.DropNode("www", "a", now_)), ElementsAre("recall a 1"));
  EXPECT_THAT(Told(table_.DropNode("www", "c", now_)), IsEmpty());
}

TEST_F(TokenTableTest, DroppedCollectionForgetsEverything) {
  Give(kA, 1);
  Acquire(kB, 1);
  EXPECT_THAT(Told(table_.DropCollection("www")), ElementsAre("answer 1 NOT_FOUND"));
  EXPECT_THAT(Acquire(kB, 2), ElementsAre("answer 2 NOT_FOUND"));
  EXPECT_TRUE(absl::IsNotFound(Renew(kA, 1).status()));
  EXPECT_TRUE(absl::IsNotFound(Release(kA, 1)));
  EXPECT_TRUE(absl::IsNotFound(table_.View("www", now_).status()));
  EXPECT_EQ(table_.NextDeadline(), absl::InfiniteFuture());
  EXPECT_THAT(Told(table_.Recall("www", true, Epoch(), 3, now_)),
              ElementsAre("answer 3 NOT_FOUND"));
  table_.AddCollection("www", Epoch(1));
  EXPECT_THAT(Acquire(kB, 4), ElementsAre("persist 2 b"));
}

TEST_F(TokenTableTest, StopGrantsNothingMoreButHoldersFinish) {
  Give(kA, 1);
  Acquire(kB, 1);
  EXPECT_THAT(Told(table_.Stop()), ElementsAre("answer 1 UNAVAILABLE"));
  EXPECT_THAT(Acquire(kC, 2), ElementsAre("answer 2 UNAVAILABLE"));
  EXPECT_TRUE(Renew(kA, 1).ok());
  EXPECT_TRUE(Release(kA, 1).ok());
  EXPECT_THAT(Told(actions_), ElementsAre("persist 1 -"));
}

TEST_F(TokenTableTest, StopTakesBackAGrantUnderWay) {
  Acquire(kA, 1);
  table_.Persisted("www", Epoch(1), now_);
  EXPECT_THAT(Told(table_.Stop()), ElementsAre("answer 1 UNAVAILABLE", "persist 1 -"));
  EXPECT_THAT(Told(table_.FenceDone("www", Epoch(1), Seq(), now_)), IsEmpty());
}

}  // namespace
}  // namespace intermezzo::token
