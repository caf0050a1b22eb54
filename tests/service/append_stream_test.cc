// The sidecar's append stream against a journal-service that only notes what it gets.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "intermezzo/journal/v1/journal.grpc.pb.h"
#include "services/sidecar/session/grpc/grpc_append_stream.h"
#include "tests/support/eventually.h"
#include "tests/support/test_node.h"

namespace intermezzo::sidecar {
namespace {

using ::testing::ElementsAre;
using tests::Eventually;
using tests::TestNode;

class NotingJournal final : public journal::v1::JournalService::Service {
 public:
  NotingJournal() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~NotingJournal() override { server_->Shutdown(std::chrono::system_clock::now()); }

  std::shared_ptr<grpc::Channel> channel() const {
    return grpc::CreateChannel(absl::StrCat("127.0.0.1:", port_),
                               grpc::InsecureChannelCredentials());
  }
  // Origin seqs, in the order in which they came.
  std::vector<uint64_t> received() const {
    absl::MutexLock lock(&mu_);
    return received_;
  }
  std::vector<uint64_t> previous() const {
    absl::MutexLock lock(&mu_);
    return previous_;
  }

 private:
  grpc::Status Append(grpc::ServerContext*,
                      grpc::ServerReaderWriter<journal::v1::AppendResponse,
                                               journal::v1::AppendRequest>* stream) override {
    journal::v1::AppendRequest request;
    while (stream->Read(&request)) {
      journal::v1::AppendResponse response;
      {
        absl::MutexLock lock(&mu_);
        previous_.push_back(request.previous_origin_seq());
        for (const auto& entry : request.entries()) {
          record::v1::Record record;
          record.ParseFromString(entry.record());
          received_.push_back(Version(record.version()).counter());
        }
        response.set_origin_seq(received_.back());
      }
      stream->Write(response);
    }
    return grpc::Status::OK;
  }

  int port_ = 0;
  mutable absl::Mutex mu_;
  std::vector<uint64_t> received_ ABSL_GUARDED_BY(mu_);
  std::vector<uint64_t> previous_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<grpc::Server> server_;
};

class Confirmations final : public AppendStream::Handler {
 public:
  void Confirmed(uint64_t origin_seq) override { last = origin_seq; }
  void Refused(Epoch, absl::Status status) override { ADD_FAILURE() << status; }
  std::atomic<uint64_t> last = 0;
};

// What waits in the local journal up to `through` waits for replay.
void SetReplayThrough(Replica& replica, uint64_t through) {
  absl::MutexLock lock(&replica.update_lock());
  storage::v1::ReplicaRow state = replica.state();
  state.set_replay_through(through);
  auto batch = replica.mutable_db().NewBatch();
  batch->PutState(state);
  ASSERT_TRUE(replica.mutable_db().Commit(std::move(batch), true).ok());
  ASSERT_TRUE(replica.ReloadState().ok());
}

TEST(AppendStreamTest, WhatWaitsForReplayIsNotSent) {
  TestNode node(3);
  for (const char* name : {"a", "b", "c"}) ASSERT_EQ(node.Create(name, 0644), 0);
  SetReplayThrough(node.replica(), 3);
  for (const char* name : {"d", "e"}) ASSERT_EQ(node.Create(name, 0644), 0);  // the replay's
  NotingJournal journal;
  Confirmations confirmations;
  auto stream = MakeGrpcAppendStream(journal.channel(), node.replica(), confirmations);
  stream->Start(Epoch(1));
  ASSERT_TRUE(Eventually([&] { return confirmations.last == 5; }));
  EXPECT_THAT(journal.received(), ElementsAre(4, 5));
  // They follow what the journal has; the numbers between are never sent.
  EXPECT_EQ(journal.previous().front(), 0u);
  SetReplayThrough(node.replica(), 0);
  ASSERT_EQ(node.Create("f", 0644), 0);
  stream->Wake();
  ASSERT_TRUE(Eventually([&] { return confirmations.last == 6; }));
  EXPECT_THAT(journal.received(), ElementsAre(4, 5, 6));
}

}  // namespace
}  // namespace intermezzo::sidecar
