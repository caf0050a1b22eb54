// Snapshots: the forwarder picks a live replica and relays between it and the joining one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <thread>

#include "tests/service/forwarder_fakes.h"

namespace intermezzo::forwarder {
namespace {

using FetchStream = grpc::ClientReaderWriter<v1::FetchSnapshotRequest, v1::FetchSnapshotResponse>;
using ServeStream = grpc::ClientReaderWriter<v1::ServeSnapshotRequest, v1::ServeSnapshotResponse>;

v1::FetchSnapshotRequest FirstRequest(const std::string& node,
                                      const std::string& collection = "www") {
  v1::FetchSnapshotRequest request;
  request.set_collection(collection);
  request.set_node(node);
  request.mutable_query()->mutable_table();
  return request;
}

class ForwarderSnapshotTest : public ForwarderTest {
 protected:
  // A live replica that may serve.
  std::unique_ptr<TestReplica> Live(const std::string& node, uint64_t cursor = 0) {
    auto replica = Connect(node, cursor);
    EXPECT_TRUE(AwaitProgress(node, [](const v1::ReplicaProgress& progress) {
      return progress.state() == v1::REPLICA_STATE_LIVE &&
             progress.applied_seq() == progress.head_seq();
    }));
    return replica;
  }

  // Both ends, joined: c fetches, a serves and has the first query.
  void Join() {
    source_ = Live("a");
    fetch_ = stub_->FetchSnapshot(&fetch_context_);
    ASSERT_TRUE(fetch_->Write(FirstRequest("c")));
    OpenServe(source_->AwaitServe());
    v1::ServeSnapshotResponse query;
    ASSERT_TRUE(serve_->Read(&query));
    EXPECT_TRUE(query.query().has_table());
  }
  void OpenServe(const std::string& session) {
    ASSERT_FALSE(session.empty());
    serve_ = stub_->ServeSnapshot(&serve_context_);
    v1::ServeSnapshotRequest hello;
    hello.set_session(session);
    ASSERT_TRUE(serve_->Write(hello));
  }
  static v1::ServeSnapshotRequest ChunkOf(uint64_t offset, size_t size) {
    v1::ServeSnapshotRequest request;
    v1::Chunk& chunk = *request.mutable_part()->mutable_chunk();
    chunk.set_object(42);
    chunk.set_offset(offset);
    chunk.set_data(std::string(size, static_cast<char>('a' + offset % 26)));
    return request;
  }

  std::unique_ptr<TestReplica> source_;
  grpc::ClientContext fetch_context_;
  grpc::ClientContext serve_context_;
  std::unique_ptr<FetchStream> fetch_;
  std::unique_ptr<ServeStream> serve_;
};

TEST_F(ForwarderSnapshotTest, PartsAndQueriesPassBothWaysInOrder) {
  Start();
  Join();
  constexpr int kParts = 150;
  constexpr int kQueries = 300;
  std::thread source([&] {
    for (int i = 0; i < kParts; ++i) ASSERT_TRUE(serve_->Write(ChunkOf(i, 1 << 20)));
  });
  std::thread source_reads([&] {
    v1::ServeSnapshotResponse query;
    for (uint64_t i = 0; i < kQueries; ++i) {
      ASSERT_TRUE(serve_->Read(&query));
      ASSERT_EQ(query.query().objects().objects(0), i);
      ASSERT_EQ(query.query().objects().objects_size(), 1000);
    }
  });
  std::thread asks([&] {
    for (uint64_t i = 0; i < kQueries; ++i) {
      v1::FetchSnapshotRequest request;
      for (uint64_t n = 0; n < 1000; ++n) {
        request.mutable_query()->mutable_objects()->add_objects(i + n);
      }
      ASSERT_TRUE(fetch_->Write(request));
    }
  });
  v1::FetchSnapshotResponse response;
  for (uint64_t i = 0; i < kParts; ++i) {
    ASSERT_TRUE(fetch_->Read(&response));
    ASSERT_EQ(response.part().chunk().offset(), i);
    ASSERT_EQ(response.part().chunk().data(), ChunkOf(i, 1 << 20).part().chunk().data());
  }
  source.join();
  source_reads.join();
  asks.join();
  // The joining replica has all it wants: both ends end well.
  fetch_->WritesDone();
  EXPECT_TRUE(fetch_->Finish().ok());
  v1::ServeSnapshotResponse query;
  EXPECT_FALSE(serve_->Read(&query));
  EXPECT_TRUE(serve_->Finish().ok());
}

TEST_F(ForwarderSnapshotTest, ASlowJoinerHoldsBackTheSource) {
  Start();
  Join();
  // The joiner reads nothing: the source gets only so far as the buffers of two connections go.
  constexpr int kParts = 256;
  std::atomic<int> written = 0;
  std::thread source([&] {
    for (int i = 0; i < kParts && serve_->Write(ChunkOf(i, 1 << 20)); ++i) ++written;
  });
  // Forwarding goes on meanwhile, to the source itself too.
  journal_.AppendRecords("www", 20, 100, 1 << 20);
  ASSERT_TRUE(source_->AwaitSeq(20));
  v1::FetchSnapshotResponse response;
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(fetch_->Read(&response));
  EXPECT_LT(written.load(), kParts);
  for (int i = 3; i < kParts; ++i) ASSERT_TRUE(fetch_->Read(&response));
  source.join();
  EXPECT_EQ(written.load(), kParts);
}

TEST_F(ForwarderSnapshotTest, TheJoinersDeathEndsTheSourcesCall) {
  Start();
  Join();
  fetch_context_.TryCancel();
  EXPECT_FALSE(fetch_->Finish().ok());
  v1::ServeSnapshotResponse query;
  EXPECT_FALSE(serve_->Read(&query));
  grpc::StatusCode code = serve_->Finish().error_code();
  EXPECT_TRUE(code == grpc::StatusCode::CANCELLED || code == grpc::StatusCode::OK) << code;
}

TEST_F(ForwarderSnapshotTest, TheSourcesDeathEndsTheJoinersCall) {
  Start();
  Join();
  ASSERT_TRUE(serve_->Write(ChunkOf(0, 10)));
  v1::FetchSnapshotResponse response;
  ASSERT_TRUE(fetch_->Read(&response));
  serve_context_.TryCancel();
  EXPECT_FALSE(serve_->Finish().ok());
  EXPECT_FALSE(fetch_->Read(&response));
  EXPECT_EQ(fetch_->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(ForwarderSnapshotTest, ASourceThatStopsEarlyEndsTheJoinersCall) {
  Start();
  Join();
  serve_->WritesDone();
  v1::FetchSnapshotResponse response;
  EXPECT_FALSE(fetch_->Read(&response));
  EXPECT_EQ(fetch_->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(serve_->Finish().ok());
}

TEST_F(ForwarderSnapshotTest, NoLiveReplicaIsUnavailable) {
  Start();
  auto joiner = Live("c");  // not from itself
  fetch_ = stub_->FetchSnapshot(&fetch_context_);
  ASSERT_TRUE(fetch_->Write(FirstRequest("c")));
  v1::FetchSnapshotResponse response;
  EXPECT_FALSE(fetch_->Read(&response));
  EXPECT_EQ(fetch_->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(ForwarderSnapshotTest, ASourceThatDoesNotCallIsReplacedByTheNext) {
  options_.serve_within = absl::Milliseconds(50);
  Start();
  auto a = Live("a");
  auto b = Live("b");
  fetch_ = stub_->FetchSnapshot(&fetch_context_);
  ASSERT_TRUE(fetch_->Write(FirstRequest("c")));
  std::string first = a->AwaitServe();
  ASSERT_FALSE(first.empty());
  std::string second = b->AwaitServe();
  ASSERT_FALSE(second.empty());
  EXPECT_NE(first, second);
  EXPECT_EQ(first.size(), 32u);
  // Nobody calls at all.
  v1::FetchSnapshotResponse response;
  EXPECT_FALSE(fetch_->Read(&response));
  EXPECT_EQ(fetch_->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  // Too late.
  OpenServe(first);
  v1::ServeSnapshotResponse query;
  EXPECT_FALSE(serve_->Read(&query));
  EXPECT_EQ(serve_->Finish().error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(ForwarderSnapshotTest, UnknownSessionsAndJoinersAreRefused) {
  Start();
  auto a = Live("a");
  OpenServe("0123456789abcdef0123456789abcdef");
  EXPECT_EQ(serve_->Finish().error_code(), grpc::StatusCode::NOT_FOUND);
  auto refused = [&](const v1::FetchSnapshotRequest& request) {
    grpc::ClientContext context;
    auto fetch = stub_->FetchSnapshot(&context);
    fetch->Write(request);
    return fetch->Finish().error_code();
  };
  EXPECT_EQ(refused(FirstRequest("zebra")), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(refused(FirstRequest("c", "nothing")), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(refused(FirstRequest("c", "/")), grpc::StatusCode::INVALID_ARGUMENT);
  v1::FetchSnapshotRequest no_query = FirstRequest("c");
  no_query.clear_query();
  EXPECT_EQ(refused(no_query), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(ForwarderSnapshotTest, ASessionServesOnce) {
  Start();
  source_ = Live("a");
  fetch_ = stub_->FetchSnapshot(&fetch_context_);
  ASSERT_TRUE(fetch_->Write(FirstRequest("c")));
  std::string session = source_->AwaitServe();
  OpenServe(session);
  v1::ServeSnapshotResponse query;
  ASSERT_TRUE(serve_->Read(&query));
  grpc::ClientContext context;
  auto thief = stub_->ServeSnapshot(&context);
  v1::ServeSnapshotRequest hello;
  hello.set_session(session);
  thief->Write(hello);
  EXPECT_EQ(thief->Finish().error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(ForwarderSnapshotTest, ASnapshotInWhichNothingMovesIsEnded) {
  options_.snapshot_idle = absl::Milliseconds(100);
  Start();
  Join();
  v1::FetchSnapshotResponse response;
  EXPECT_FALSE(fetch_->Read(&response));
  EXPECT_EQ(fetch_->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(serve_->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
}

TEST_F(ForwarderSnapshotTest, DrainEndsBothSides) {
  Start();
  Join();
  service_->Drain(absl::Seconds(10));
  v1::FetchSnapshotResponse response;
  EXPECT_FALSE(fetch_->Read(&response));
  EXPECT_EQ(fetch_->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(serve_->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

}  // namespace
}  // namespace intermezzo::forwarder
