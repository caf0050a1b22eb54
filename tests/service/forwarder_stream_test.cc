// Forward: from the journal to the replicas, in order, within the window, through faults.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "services/common/rpc/channel.h"
#include "tests/service/forwarder_fakes.h"
#include "tests/support/cut_line.h"

namespace intermezzo::forwarder {
namespace {

using ::testing::HasSubstr;

// The entries are exactly from..to, as the journal has them.
void ExpectDense(TestReplica& replica, FakeJournal& journal, uint64_t from, uint64_t to) {
  std::vector<record::v1::Entry> entries = replica.entries();
  ASSERT_EQ(entries.size(), to - from + 1);
  for (size_t i = 0; i < entries.size(); ++i) {
    ASSERT_EQ(entries[i].seq(), from + i);
    ASSERT_EQ(entries[i].record(), journal.RecordAt("www", from + i));
    ASSERT_EQ(entries[i].chain(), journal.ChainAt("www", from + i));
  }
}

TEST_F(ForwarderTest, EntriesArriveInOrderAndAsTheyWere) {
  journal_.AppendRecords("www", 500);
  journal_.SetBatch(7);
  Start();
  auto a = Connect("a");
  auto b = Connect("b");
  ASSERT_TRUE(a->AwaitSeq(500));
  for (int i = 0; i < 100; ++i) journal_.AppendRecords("www", 5, 20 + i, i);
  ASSERT_TRUE(a->AwaitSeq(1000));
  ASSERT_TRUE(b->AwaitSeq(1000));
  ExpectDense(*a, journal_, 1, 1000);
  ExpectDense(*b, journal_, 1, 1000);
  EXPECT_EQ(a->entries().back().payload().size(), 99u);
}

TEST_F(ForwarderTest, AReplicaGoesOnFromItsCursorAndGetsItsOwnWithoutPayload) {
  Start();
  journal_.AppendRecords("www", 50);
  journal_.AppendRecords("www", 1, 20, /*payload=*/333, /*ordinal=*/HelloOf("b").ordinal());
  auto b = Connect("b", 42);
  ASSERT_TRUE(b->AwaitSeq(51));
  ExpectDense(*b, journal_, 43, 51);
  EXPECT_EQ(b->entries().back().payload(), "");
  EXPECT_EQ(b->entries().back().payload_length(), 333u);
  auto c = Connect("c", 42);
  ASSERT_TRUE(c->AwaitSeq(51));
  EXPECT_EQ(c->entries().back().payload().size(), 333u);
}

TEST_F(ForwarderTest, ReplicasThatHaveCaughtUpShareOneSubscription) {
  journal_.AppendRecords("www", 10);
  Start();
  std::vector<std::unique_ptr<TestReplica>> replicas;
  for (const char* node : {"a", "b", "c"}) replicas.push_back(Connect(node));
  for (auto& replica : replicas) ASSERT_TRUE(replica->AwaitSeq(10));
  ASSERT_TRUE(journal_.AwaitSubscriptions(4));  // one each, and the tail's
  for (int i = 0; i < 200; ++i)
    journal_.AppendRecords("www", 1, 20, /*payload=*/100, /*ordinal=*/9);
  for (auto& replica : replicas) {
    ASSERT_TRUE(replica->AwaitSeq(210));
    ExpectDense(*replica, journal_, 1, 210);
    EXPECT_EQ(replica->entries().back().payload().size(), 100u);
  }
  // All three took these from the tail; the first three subscriptions may still be ending.
  ASSERT_TRUE(journal_.AwaitOpen(1));
  for (int i = 0; i < 200; ++i) journal_.AppendRecords("www", 1);
  for (auto& replica : replicas) {
    ASSERT_TRUE(replica->AwaitSeq(410));
    ExpectDense(*replica, journal_, 1, 410);
  }
  EXPECT_EQ(journal_.subscriptions().size(), 4u);
  // The last that leaves ends it.
  replicas.clear();
  EXPECT_TRUE(journal_.AwaitOpen(0));
}

TEST_F(ForwarderTest, TheTailGivesAReplicaItsOwnWithoutPayload) {
  Start();
  journal_.AppendRecords("www", 1);
  auto a = Connect("a");
  auto b = Connect("b");
  ASSERT_TRUE(a->AwaitSeq(1));
  ASSERT_TRUE(b->AwaitSeq(1));
  ASSERT_TRUE(journal_.AwaitOpen(1));  // the tail's
  const uint32_t ordinal = HelloOf("b").ordinal();
  journal_.AppendRecords("www", 1, 20, /*payload=*/333, ordinal);
  ASSERT_TRUE(a->AwaitSeq(2));
  ASSERT_TRUE(b->AwaitSeq(2));
  EXPECT_EQ(a->entries().back().payload().size(), 333u);
  // More of its own than are held back, and others' between its own.
  journal_.AppendRecords("www", 300, 20, /*payload=*/5, ordinal);
  journal_.AppendRecords("www", 1, 20, /*payload=*/5, ordinal + 1);
  journal_.AppendRecords("www", 1, 20, /*payload=*/5, ordinal);
  ASSERT_TRUE(b->AwaitSeq(304));
  ExpectDense(*b, journal_, 1, 304);
  const std::vector<record::v1::Entry> entries = b->entries();
  for (const record::v1::Entry& entry : entries) {
    if (entry.seq() == 1) continue;
    EXPECT_EQ(entry.payload().size(), entry.seq() == 303 ? 5u : 0u) << entry.seq();
    EXPECT_EQ(entry.payload_length(), entry.seq() == 2 ? 333u : 5u);
  }
}

TEST_F(ForwarderTest, AReplicaThatFellBehindTheTailReadsByItselfAndComesBack) {
  options_.window = {.bytes = 64 << 20, .records = 10};
  Start();
  auto good = Connect("b");
  auto slow = Connect("a", 0, /*ack=*/false);
  ASSERT_TRUE(journal_.AwaitSubscriptions(3));
  ASSERT_TRUE(journal_.AwaitOpen(1));
  // More than the tail keeps.
  for (int i = 0; i < 40; ++i) {
    journal_.AppendRecords("www", 1, 20, /*payload=*/1 << 20);
    ASSERT_TRUE(good->AwaitSeq(i + 1));
  }
  ASSERT_TRUE(slow->AwaitSeq(10));
  EXPECT_EQ(slow->last_seq(), 10u);
  for (uint64_t seq = 10; seq < 40; seq += 10) {
    slow->Ack(seq);
    ASSERT_TRUE(slow->AwaitSeq(seq + 10));
  }
  slow->Ack(40);
  ASSERT_TRUE(journal_.AwaitSubscriptions(4));
  ASSERT_TRUE(journal_.AwaitOpen(1));
  journal_.AppendRecords("www", 1, 20, /*payload=*/7);
  ASSERT_TRUE(slow->AwaitSeq(41));
  ExpectDense(*slow, journal_, 1, 41);
  ExpectDense(*good, journal_, 1, 41);
  EXPECT_EQ(slow->entries().back().payload().size(), 7u);
}

TEST_F(ForwarderTest, AReplicaThatDoesNotAcknowledgeGetsAWindowAndDelaysNobody) {
  options_.window = {.bytes = 1 << 20, .records = 10};
  journal_.SetBatch(1);
  journal_.AppendRecords("www", 400);
  Start();
  auto stuck = Connect("a", 0, /*ack=*/false);
  ASSERT_TRUE(stuck->AwaitSeq(10));
  auto good = Connect("b");
  ASSERT_TRUE(good->AwaitSeq(400));
  journal_.AppendRecords("www", 400);
  ASSERT_TRUE(good->AwaitSeq(800));
  // It hears of the head while it gets no entries.
  ASSERT_TRUE(stuck->AwaitHeartbeat(800));
  EXPECT_EQ(stuck->last_seq(), 10u);
  ASSERT_TRUE(AwaitProgress("a", [](const v1::ReplicaProgress& progress) {
    return progress.applied_seq() == 0 && progress.lag_records() == 800;
  }));
  // An ack opens the window by just so much.
  stuck->Ack(4);
  ASSERT_TRUE(stuck->AwaitSeq(14));
  stuck->Ack(14);
  ASSERT_TRUE(stuck->AwaitSeq(24));
  journal_.AppendRecords("www", 1);
  ASSERT_TRUE(good->AwaitSeq(801));
  EXPECT_EQ(stuck->last_seq(), 24u);
}

TEST_F(ForwarderTest, AReplicaThatDoesNotReadDelaysNobody) {
  options_.window = {.bytes = 8 << 20, .records = 1000};
  journal_.SetBatch(1);
  Start();
  grpc::ClientContext context;
  auto deaf = stub_->Forward(&context);
  v1::ForwardRequest hello;
  *hello.mutable_hello() = HelloOf("a");
  ASSERT_TRUE(deaf->Write(hello));
  auto good = Connect("b");
  // More than all buffers on the way hold together.
  for (int i = 0; i < 64; ++i) journal_.AppendRecords("www", 1, 20, 1 << 20);
  ASSERT_TRUE(good->AwaitSeq(64));
  ASSERT_TRUE(AwaitProgress("a", [](const v1::ReplicaProgress& progress) {
    return progress.state() == v1::REPLICA_STATE_CATCHING_UP ||
           progress.state() == v1::REPLICA_STATE_LAGGING;
  }));
  context.TryCancel();
  EXPECT_FALSE(deaf->Finish().ok());
  ASSERT_TRUE(AwaitProgress("a", [](const v1::ReplicaProgress& progress) {
    return progress.state() == v1::REPLICA_STATE_AWAY;
  }));
}

TEST_F(ForwarderTest, ANewerStreamTakesOver) {
  journal_.AppendRecords("www", 10);
  Start();
  auto older = Connect("a");
  ASSERT_TRUE(older->AwaitSeq(10));
  auto newer = Connect("a", 10);
  EXPECT_EQ(older->AwaitEnd().error_code(), grpc::StatusCode::ABORTED);
  journal_.AppendRecords("www", 5);
  ASSERT_TRUE(newer->AwaitSeq(15));
  ExpectDense(*newer, journal_, 11, 15);
  EXPECT_EQ(older->last_seq(), 10u);
}

TEST_F(ForwarderTest, ASecondNodeOfOneNameIsRefusedAndTheFirstIsNotDisturbed) {
  journal_.AppendRecords("www", 10);
  Start();
  auto first = Connect("a");
  ASSERT_TRUE(first->AwaitSeq(10));
  v1::Hello hello = HelloOf("a", 5);
  hello.set_instance("another-machine");
  hello.set_ordinal(300);
  TestReplica second(*stub_, hello, true);
  grpc::Status status = second.AwaitEnd();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("instance-a"));
  EXPECT_THAT(status.error_message(), HasSubstr("another-machine"));
  EXPECT_THAT(status.error_message(), HasSubstr("another name"));
  EXPECT_TRUE(second.entries().empty());
  // The right instance with another's ordinal would get records without the payloads it lacks.
  hello = HelloOf("a", 5);
  hello.set_ordinal(300);
  EXPECT_EQ(TestReplica(*stub_, hello, true).AwaitEnd().error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
  journal_.AppendRecords("www", 5);
  ASSERT_TRUE(first->AwaitSeq(15));
  ExpectDense(*first, journal_, 1, 15);
  ASSERT_TRUE(
      AwaitProgress("a", [](const auto& progress) { return progress.applied_seq() == 15; }));
  // Nothing was read for the refused ones.
  for (const journal::v1::SubscribeRequest& request : journal_.subscriptions()) {
    EXPECT_NE(request.skip_payloads_of(), 300u);
    EXPECT_NE(request.from_seq(), 6u);
  }
}

TEST_F(ForwarderTest, ANameThatWentToAnotherIncarnationIsTheOthers) {
  options_.poll = absl::Minutes(10);  // only the other's hello makes it ask again
  journal_.AppendRecords("www", 10);
  Start();
  auto former = Connect("a");
  ASSERT_TRUE(former->AwaitSeq(10));
  registry_.SetIncarnation("a", "made-anew", 300);
  v1::Hello hello = HelloOf("a", 0);
  hello.set_instance("made-anew");
  hello.set_ordinal(300);
  TestReplica now(*stub_, hello, true);
  ASSERT_TRUE(now.AwaitSeq(10));
  grpc::Status status = former->AwaitEnd();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("made-anew"));
  EXPECT_EQ(Connect("a", 10)->AwaitEnd().error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  journal_.AppendRecords("www", 5);
  EXPECT_TRUE(now.AwaitSeq(15));
}

TEST_F(ForwarderTest, UnknownReplicasAndOtherCollectionsAreRefused) {
  Start();
  auto unknown = Connect("zebra");
  EXPECT_EQ(unknown->AwaitEnd().error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  v1::Hello hello = HelloOf("a");
  hello.set_collection("nothing");
  EXPECT_EQ(TestReplica(*stub_, hello, true).AwaitEnd().error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
  hello = HelloOf("a");
  hello.set_collection_uid(8);
  grpc::Status status = TestReplica(*stub_, hello, true).AwaitEnd();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("uid"));
  EXPECT_TRUE(journal_.subscriptions().empty());
}

TEST_F(ForwarderTest, BadMessagesAreRefused) {
  journal_.AppendRecords("www", 3);
  Start();
  v1::Hello hello = HelloOf("a");
  hello.set_collection("WWW");
  EXPECT_EQ(TestReplica(*stub_, hello, true).AwaitEnd().error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  hello = HelloOf("a");
  hello.set_ordinal(0);
  EXPECT_EQ(TestReplica(*stub_, hello, true).AwaitEnd().error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  hello = HelloOf("a", 2);
  hello.clear_chain();
  EXPECT_EQ(TestReplica(*stub_, hello, true).AwaitEnd().error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);

  grpc::ClientContext context;
  auto ack_first = stub_->Forward(&context);
  v1::ForwardRequest ack;
  ack.mutable_ack()->set_seq(0);
  ack_first->Write(ack);
  EXPECT_EQ(ack_first->Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);

  auto liar = Connect("a", 0, /*ack=*/false);
  ASSERT_TRUE(liar->AwaitSeq(3));
  liar->Ack(4);
  EXPECT_EQ(liar->AwaitEnd().error_code(), grpc::StatusCode::INVALID_ARGUMENT);

  auto twice = Connect("a", 3);
  ASSERT_TRUE(twice->AwaitHeartbeat(3));
  v1::ForwardRequest again;
  *again.mutable_hello() = HelloOf("a", 3);
  twice->Send(again);
  EXPECT_EQ(twice->AwaitEnd().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(ForwarderTest, AStreamThatSaysNothingIsEnded) {
  options_.hello_within = absl::Milliseconds(20);
  Start();
  grpc::ClientContext context;
  auto mute = stub_->Forward(&context);
  EXPECT_EQ(mute->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
}

TEST_F(ForwarderTest, AReplicaRegisteredThisMomentIsLetIn) {
  options_.poll = absl::Minutes(10);  // only the unknown hello makes it ask again
  journal_.AppendRecords("www", 3);
  Start();
  auto a = Connect("a");
  ASSERT_TRUE(a->AwaitSeq(3));
  registry_.Register("www", "late");
  auto late = Connect("late");
  EXPECT_TRUE(late->AwaitSeq(3));
}

TEST_F(ForwarderTest, ARemovedReplicasStreamEnds) {
  Start();
  auto a = Connect("a");
  ASSERT_TRUE(a->AwaitHeartbeat(0));
  registry_.Unregister("www", "a");
  EXPECT_EQ(a->AwaitEnd().error_code(), grpc::StatusCode::FAILED_PRECONDITION);
}

TEST_F(ForwarderTest, ACollectionMadeAnewIsAnotherOne) {
  Start();
  auto a = Connect("a");
  ASSERT_TRUE(a->AwaitHeartbeat(0));
  registry_.AddCollection("www", 8);
  EXPECT_EQ(a->AwaitEnd().error_code(), grpc::StatusCode::FAILED_PRECONDITION);
}

TEST_F(ForwarderTest, TrimmedBehindTheReplicaMeansSnapshot) {
  journal_.AppendRecords("www", 100);
  journal_.Trim("www", 60);
  Start();
  auto a = Connect("a", 20);
  ASSERT_TRUE(a->AwaitNeedsSnapshot(60));
  EXPECT_TRUE(a->entries().empty());
  ASSERT_TRUE(AwaitProgress("a", [](const v1::ReplicaProgress& progress) {
    return progress.state() == v1::REPLICA_STATE_NEEDS_SNAPSHOT;
  }));
  // With a snapshot it says hello anew.
  auto again = Connect("a", 90);
  ASSERT_TRUE(again->AwaitSeq(100));
  ExpectDense(*again, journal_, 91, 100);
  ASSERT_TRUE(AwaitProgress("a", [](const v1::ReplicaProgress& progress) {
    return progress.state() == v1::REPLICA_STATE_LIVE;
  }));
}

TEST_F(ForwarderTest, AnotherChainOrACursorBeyondTheHeadIsDataLoss) {
  journal_.AppendRecords("www", 100);
  Start();
  v1::Hello hello = HelloOf("a", 20);
  hello.set_chain("something else");
  EXPECT_EQ(TestReplica(*stub_, hello, true).AwaitEnd().error_code(), grpc::StatusCode::DATA_LOSS);
  EXPECT_EQ(Connect("a", 150)->AwaitEnd().error_code(), grpc::StatusCode::DATA_LOSS);
}

TEST_F(ForwarderTest, TheJournalsRestartIsNotTheReplicasConcern) {
  journal_.SetBatch(3);
  journal_.AppendRecords("www", 100);
  Start();
  auto a = Connect("a");
  ASSERT_TRUE(a->AwaitSeq(100));
  StopJournal();
  ASSERT_TRUE(a->AwaitHeartbeat(100));
  journal_.AppendRecords("www", 100);
  auto b = Connect("b", 30);  // connects while there is no journal
  StartJournal();
  ASSERT_TRUE(a->AwaitSeq(200));
  ASSERT_TRUE(b->AwaitSeq(200));
  ExpectDense(*a, journal_, 1, 200);
  ExpectDense(*b, journal_, 31, 200);
}

TEST_F(ForwarderTest, ASilentReplicaIsAway) {
  options_.silent_after = absl::Milliseconds(50);
  Start();
  auto a = Connect("a");
  EXPECT_EQ(a->AwaitEnd().error_code(), grpc::StatusCode::UNAVAILABLE);
  ASSERT_TRUE(AwaitProgress("a", [](const v1::ReplicaProgress& progress) {
    return progress.state() == v1::REPLICA_STATE_AWAY;
  }));
}

// Nothing passes any more and nothing was closed: only the keepalive can tell.
class ForwarderDeadLineTest : public ForwarderTest {
 protected:
  // Shorter than in life, so that the tests are.
  ForwarderDeadLineTest() { keepalive_ = {.time_ms = 1000, .timeout_ms = 1000}; }

  void ExpectBothSidesNotice(TestReplica& replica) {
    EXPECT_EQ(replica.AwaitEnd().error_code(), grpc::StatusCode::UNAVAILABLE);
    EXPECT_TRUE(AwaitProgress("a", [](const v1::ReplicaProgress& progress) {
      return progress.state() == v1::REPLICA_STATE_AWAY;
    }));
    EXPECT_TRUE(journal_.AwaitOpen(0)) << "it still reads the journal for the replica";
  }
};

TEST_F(ForwarderDeadLineTest, AnIdleStreamEndsOnBothSides) {
  Start();
  tests::CutLine line(CUT_PROXY, address_);
  auto stub = v1::ForwarderService::NewStub(MakeChannel(line.address(), keepalive_));
  TestReplica a(*stub, HelloOf("a"), true);
  ASSERT_TRUE(a.AwaitHeartbeat(0));
  line.Cut();
  ExpectBothSidesNotice(a);
}

TEST_F(ForwarderDeadLineTest, AStreamWithMoreToSendThanTheLineHoldsEndsOnBothSides) {
  options_.window = {.bytes = 64 << 20, .records = 1000};
  journal_.SetBatch(1);
  Start();
  tests::CutLine line(CUT_PROXY, address_);
  auto stub = v1::ForwarderService::NewStub(MakeChannel(line.address(), keepalive_));
  TestReplica a(*stub, HelloOf("a"), true);
  ASSERT_TRUE(a.AwaitHeartbeat(0));
  line.Cut();
  for (int i = 0; i < 48; ++i) journal_.AppendRecords("www", 1, 20, 1 << 20);
  ExpectBothSidesNotice(a);
}

TEST_F(ForwarderTest, AReplicaMayLeave) {
  Start();
  auto a = Connect("a");
  ASSERT_TRUE(a->AwaitHeartbeat(0));
  a->Leave();
  EXPECT_TRUE(a->AwaitEnd().ok());
}

TEST_F(ForwarderTest, DrainSendsEverybodyAway) {
  Start();
  auto a = Connect("a");
  ASSERT_TRUE(a->AwaitHeartbeat(0));
  service_->Drain(absl::Seconds(10));
  EXPECT_EQ(a->AwaitEnd().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Connect("b")->AwaitEnd().error_code(), grpc::StatusCode::UNAVAILABLE);
}

}  // namespace
}  // namespace intermezzo::forwarder
