// What the forwarder knows and says: progress, waiting, cursors, metrics.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "tests/service/forwarder_fakes.h"

namespace intermezzo::forwarder {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class ForwarderProgressTest : public ForwarderTest {
 protected:
  struct Waited {
    grpc::Status status;
    uint64_t seq = 0;
  };
  // WaitReplicas on a thread of its own.
  std::future<Waited> Wait(uint64_t seq, absl::Duration deadline = kLimit,
                           const std::string& collection = "www") {
    return std::async(std::launch::async, [this, seq, deadline, collection] {
      grpc::ClientContext context;
      context.set_deadline(absl::ToChronoTime(absl::Now() + deadline));
      v1::WaitReplicasRequest request;
      request.set_collection(collection);
      request.set_seq(seq);
      v1::WaitReplicasResponse response;
      Waited waited;
      waited.status = stub_->WaitReplicas(&context, request, &response);
      waited.seq = response.seq();
      return waited;
    });
  }
  bool AwaitMetric(const std::string& line) {
    absl::Time limit = absl::Now() + kLimit;
    while (absl::Now() < limit) {
      for (absl::string_view got : absl::StrSplit(Scrape(), '\n')) {
        if (got == line) return true;
      }
      absl::SleepFor(absl::Milliseconds(1));
    }
    return false;
  }
};

TEST_F(ForwarderProgressTest, LagIsZeroWhenIdle) {
  Start();
  auto a = Connect("a");
  journal_.AppendRecords("www", 20, 50, 100);
  ASSERT_TRUE(AwaitProgress("a", [](const v1::ReplicaProgress& progress) {
    return progress.state() == v1::REPLICA_STATE_LIVE && progress.applied_seq() == 20 &&
           progress.head_seq() == 20 && progress.lag_records() == 0 && progress.lag_bytes() == 0 &&
           progress.lag().seconds() == 0 && progress.lag().nanos() == 0;
  }));
}

TEST_F(ForwarderProgressTest, LagOfAReplicaThatIsAwayGrowsByTheServersClock) {
  Start();
  auto a = Connect("a");
  journal_.AppendRecords("www", 1);
  ASSERT_TRUE(AwaitProgress("a", [](const auto& progress) { return progress.applied_seq() == 1; }));
  a.reset();
  ASSERT_TRUE(AwaitProgress(
      "a", [](const auto& progress) { return progress.state() == v1::REPLICA_STATE_AWAY; }));
  journal_.AppendRecords("www", 4, 50, 100);
  int64_t first_age = 0;
  ASSERT_TRUE(AwaitProgress("a", [&](const v1::ReplicaProgress& progress) {
    first_age = progress.lag().seconds() * 1'000'000'000 + progress.lag().nanos();
    return progress.lag_records() == 4 && progress.lag_bytes() == 600 && first_age > 0;
  }));
  ASSERT_TRUE(AwaitProgress("a", [&](const v1::ReplicaProgress& progress) {
    return progress.lag().seconds() * 1'000'000'000 + progress.lag().nanos() > first_age;
  }));
}

absl::Duration LagOf(const v1::ReplicaProgress& progress) {
  return absl::Seconds(progress.lag().seconds()) + absl::Nanoseconds(progress.lag().nanos());
}

// Three clocks that only the test moves: the forwarder's monotonic one, its wall clock, and the
// journal's.
class ForwarderLagTest : public ForwarderProgressTest {
 protected:
  ForwarderLagTest() {
    options_.clock = [this] { return absl::UnixEpoch() + absl::Nanoseconds(monotonic_ns_.load()); };
    options_.wall_clock = [this] { return absl::FromUnixSeconds(wall_seconds_.load()); };
    journal_.SetNow(journal_now_);
  }
  void Pass(absl::Duration time) { monotonic_ns_ += absl::ToInt64Nanoseconds(time); }

  const absl::Time journal_now_ = absl::FromUnixSeconds(1'000'000'000);
  std::atomic<int64_t> monotonic_ns_{0};
  std::atomic<int64_t> wall_seconds_{4'000'000'000};
};

TEST_F(ForwarderLagTest, OfAReplicaThatNeverCameIsByTheJournalsClockAlone) {
  journal_.AppendRecords("www", 4);
  journal_.SetNow(journal_now_ + absl::Seconds(5));
  Start();
  auto is = [&](absl::Duration lag) {
    return AwaitProgress("a", [lag](const auto& progress) { return LagOf(progress) == lag; });
  };
  ASSERT_TRUE(is(absl::Seconds(5)));
  // Once it is known, only time that passes makes it more.
  journal_.SetNow(journal_now_ + absl::Hours(1));
  wall_seconds_ = 1;
  Pass(absl::Seconds(2));
  ASSERT_TRUE(is(absl::Seconds(7)));
  ASSERT_TRUE(AwaitMetric("intermezzo_replication_lag_seconds{collection=\"www\",node=\"a\"} 7"));
}

TEST_F(ForwarderLagTest, IsNotMadeByAJumpOfAnyWallClock) {
  Start();
  auto a = Connect("a");
  auto b = Connect("b", 0, /*ack=*/false);
  journal_.AppendRecords("www", 1);
  ASSERT_TRUE(b->AwaitSeq(1));
  Pass(absl::Seconds(3));
  // The journal's clock is put forward, and the forwarder hears of it with the next entry.
  wall_seconds_ = 1;
  journal_.SetNow(journal_now_ + absl::Hours(1));
  journal_.AppendRecords("www", 1);
  ASSERT_TRUE(b->AwaitSeq(2));
  ASSERT_TRUE(
      AwaitProgress("b", [](const auto& progress) { return LagOf(progress) == absl::Seconds(3); }));
  // Idle: nothing is missing, whatever the clocks say.
  ASSERT_TRUE(AwaitProgress("a", [](const auto& progress) {
    return progress.applied_seq() == 2 && LagOf(progress) == absl::ZeroDuration();
  }));
  // And back.
  b->Ack(1);
  journal_.SetNow(journal_now_ - absl::Hours(1));
  journal_.AppendRecords("www", 1);
  ASSERT_TRUE(b->AwaitSeq(3));
  Pass(absl::Seconds(1));
  ASSERT_TRUE(AwaitProgress("b", [](const auto& progress) {
    return progress.applied_seq() == 1 && LagOf(progress) == absl::Seconds(1);
  }));
}

TEST_F(ForwarderProgressTest, ListsAllAndOne) {
  Start();
  registry_.AddCollection("blog", 9);
  journal_.Create("blog", 9);
  registry_.Register("blog", "b");
  grpc::ClientContext one_context;
  v1::ListReplicaProgressRequest request;
  request.set_collection("blog");
  v1::ListReplicaProgressResponse response;
  ASSERT_TRUE(stub_->ListReplicaProgress(&one_context, request, &response).ok());
  ASSERT_EQ(response.replicas_size(), 1);
  EXPECT_EQ(response.replicas(0).node(), "b");
  EXPECT_EQ(response.replicas(0).state(), v1::REPLICA_STATE_AWAY);
  grpc::ClientContext all_context;
  request.clear_collection();
  ASSERT_TRUE(stub_->ListReplicaProgress(&all_context, request, &response).ok());
  EXPECT_EQ(response.replicas_size(), 4);
  grpc::ClientContext none_context;
  request.set_collection("none");
  EXPECT_EQ(stub_->ListReplicaProgress(&none_context, request, &response).error_code(),
            grpc::StatusCode::NOT_FOUND);
  grpc::ClientContext bad_context;
  request.set_collection("/");
  EXPECT_EQ(stub_->ListReplicaProgress(&bad_context, request, &response).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(ForwarderProgressTest, WaitEndsWithTheLastAck) {
  Start();
  journal_.AppendRecords("www", 5);
  auto a = Connect("a");
  auto b = Connect("b");
  auto c = Connect("c", 0, /*ack=*/false);
  ASSERT_TRUE(c->AwaitSeq(5));
  auto waited = Wait(0);
  auto waited_less = Wait(3);
  c->Ack(3);
  EXPECT_EQ(waited_less.get().seq, 3u);
  EXPECT_EQ(waited.wait_for(std::chrono::seconds(0)), std::future_status::timeout);
  c->Ack(5);
  Waited result = waited.get();
  EXPECT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.seq, 5u);
}

TEST_F(ForwarderProgressTest, WaitForWhatIsThereAlreadyReturnsAtOnce) {
  Start();
  journal_.AppendRecords("www", 5);
  auto a = Connect("a", 5);
  auto b = Connect("b", 5);
  auto c = Connect("c", 5);
  EXPECT_TRUE(Wait(0).get().status.ok());
  c.reset();  // away, and what it has applied still counts
  ASSERT_TRUE(AwaitProgress(
      "c", [](const auto& progress) { return progress.state() == v1::REPLICA_STATE_AWAY; }));
  EXPECT_TRUE(Wait(5).get().status.ok());
}

TEST_F(ForwarderProgressTest, WaitHasADeadline) {
  Start();
  journal_.AppendRecords("www", 5);
  auto a = Connect("a");
  EXPECT_EQ(Wait(5, absl::Milliseconds(50)).get().status.error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
}

TEST_F(ForwarderProgressTest, ARemovedReplicaIsNotWaitedFor) {
  Start();
  journal_.AppendRecords("www", 5);
  auto a = Connect("a");
  auto b = Connect("b");
  auto waited = Wait(5);
  ASSERT_TRUE(AwaitProgress("a", [](const auto& progress) { return progress.applied_seq() == 5; }));
  ASSERT_TRUE(AwaitProgress("b", [](const auto& progress) { return progress.applied_seq() == 5; }));
  EXPECT_EQ(waited.wait_for(std::chrono::seconds(0)), std::future_status::timeout);
  registry_.Unregister("www", "c");
  EXPECT_TRUE(waited.get().status.ok());
}

TEST_F(ForwarderProgressTest, WaitEndsWithTheCollection) {
  Start();
  auto waited = Wait(5);
  EXPECT_EQ(Wait(5, kLimit, "none").get().status.error_code(), grpc::StatusCode::NOT_FOUND);
  registry_.RemoveCollection("www");
  EXPECT_EQ(waited.get().status.error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(ForwarderProgressTest, WaitForTheHeadNeedsTheJournal) {
  Start();
  auto a = Connect("a");
  ASSERT_TRUE(a->AwaitHeartbeat(0));
  StopJournal();
  EXPECT_EQ(Wait(0).get().status.error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(ForwarderProgressTest, TheJournalIsToldTheCursors) {
  journal_.AppendRecords("www", 10);
  Start();
  ASSERT_TRUE(journal_.AwaitCursors("www", {{"a", 0}, {"b", 0}, {"c", 0}}));
  auto a = Connect("a");
  auto b = Connect("b", 4, /*ack=*/false);
  ASSERT_TRUE(journal_.AwaitCursors("www", {{"a", 10}, {"b", 4}, {"c", 0}}));
  ASSERT_TRUE(b->AwaitSeq(10));
  b->Ack(6);
  ASSERT_TRUE(journal_.AwaitCursors("www", {{"a", 10}, {"b", 6}, {"c", 0}}));
  registry_.Unregister("www", "c");
  ASSERT_TRUE(journal_.AwaitCursors("www", {{"a", 10}, {"b", 6}}));
  // At no time was a replica left out or said to be further than it was.
  for (const auto& list : journal_.cursor_lists("www")) {
    ASSERT_TRUE(list.contains("a") && list.contains("b"));
    ASSERT_LE(list.at("b"), 6u);
  }
}

TEST_F(ForwarderProgressTest, AnUnheardReplicaHoldsBackTrimmingAfterARestart) {
  journal_.AppendRecords("www", 10);
  Start();
  {
    auto a = Connect("a", 10);
    auto b = Connect("b", 10);
    auto c = Connect("c", 10);
    ASSERT_TRUE(journal_.AwaitCursors("www", {{"a", 10}, {"b", 10}, {"c", 10}}));
  }
  StopForwarder();
  StopJournal();
  metrics_ = std::make_shared<prometheus::Registry>();
  Start();
  auto a = Connect("a", 10);
  ASSERT_TRUE(journal_.AwaitCursors("www", {{"a", 10}, {"b", 0}, {"c", 0}}));
}

TEST_F(ForwarderProgressTest, MetricsComeAndGoWithTheReplicas) {
  Start();
  journal_.AppendRecords("www", 3, 100);
  auto a = Connect("a");
  ASSERT_TRUE(
      AwaitMetric("intermezzo_forwarder_sent_records_total{collection=\"www\",node=\"a\"} 3"));
  ASSERT_TRUE(
      AwaitMetric("intermezzo_forwarder_sent_bytes_total{collection=\"www\",node=\"a\"} 300"));
  ASSERT_TRUE(AwaitMetric("intermezzo_forwarder_stream_up{collection=\"www\",node=\"a\"} 1"));
  ASSERT_TRUE(
      AwaitMetric("intermezzo_replication_state{collection=\"www\",node=\"a\",state=\"live\"} 1"));
  ASSERT_TRUE(AwaitMetric("intermezzo_replication_lag_seconds{collection=\"www\",node=\"a\"} 0"));
  ASSERT_TRUE(AwaitMetric("intermezzo_replication_lag_records{collection=\"www\",node=\"b\"} 3"));
  ASSERT_TRUE(AwaitMetric("intermezzo_journal_head_sequence{collection=\"www\"} 3"));
  auto again = Connect("a", 3);
  ASSERT_TRUE(
      AwaitMetric("intermezzo_forwarder_reconnects_total{collection=\"www\",node=\"a\"} 1"));
  registry_.Unregister("www", "a");
  absl::Time limit = absl::Now() + kLimit;
  while (absl::StrContains(Scrape(), "node=\"a\"") && absl::Now() < limit) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_THAT(Scrape(), Not(HasSubstr("node=\"a\"")));
  EXPECT_THAT(Scrape(), HasSubstr("node=\"b\""));
}

}  // namespace
}  // namespace intermezzo::forwarder
