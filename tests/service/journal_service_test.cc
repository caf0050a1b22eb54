// JournalService over real gRPC in this process, on a RocksDB journal: what a client sees.
#include "services/journal-service/grpc/journal_service.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/common/record/codec.h"
#include "services/journal-service/rocksdb/rocksdb_journal_store.h"
#include "tests/support/record_maker.h"
#include "tests/support/temp_dir.h"

namespace intermezzo::journal {
namespace {

using grpc::StatusCode;
using tests::RecordMaker;
constexpr uint64_t kRoot = 1;

class JournalServiceTest : public ::testing::Test {
 protected:
  using AppendCall = grpc::ClientReaderWriter<v1::AppendRequest, v1::AppendResponse>;
  using SubscribeCall = grpc::ClientReader<v1::SubscribeResponse>;

  // A call that hangs fails after this instead of hanging the test.
  static std::unique_ptr<grpc::ClientContext> Context() {
    auto context = std::make_unique<grpc::ClientContext>();
    context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    return context;
  }

  void SetUp() override {
    StartServer();
    v1::CreateJournalRequest request;
    request.set_collection("www");
    request.set_uid(7);
    v1::CreateJournalResponse response;
    auto context = Context();
    auto status = stub_->CreateJournal(context.get(), request, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }
  void TearDown() override { StopServer(); }

  void StartServer() {
    RocksDbJournalStore::Options options;
    options.database.dir = dir_.path();
    options.clock = [] { return absl::Now(); };
    options.tail_cache_bytes = tail_cache_bytes_;
    auto store = RocksDbJournalStore::Open(std::move(options));
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    service_ = std::make_unique<JournalGrpcService>(
        *store_, JournalGrpcService::Options{.clock = [] { return absl::Now(); },
                                             .heartbeat = absl::Milliseconds(20)});
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
    builder.RegisterService(service_.get());
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    const std::string address = absl::StrCat("127.0.0.1:", port);
    stub_ = v1::JournalService::NewStub(
        grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
    // Takes in no more than it is asked for, about.
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 64 << 10);
    slow_stub_ = v1::JournalService::NewStub(
        grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
  }
  void StopServer() {
    if (server_ == nullptr) return;
    service_->Drain(absl::Seconds(30));
    server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
    server_->Wait();
    server_.reset();
    service_.reset();
    store_.reset();
  }

  static v1::AppendRequest Request(const std::vector<record::v1::Record>& records,
                                   uint64_t epoch = 1) {
    v1::AppendRequest request;
    request.set_collection("www");
    request.set_epoch(epoch);
    const Version first(records.front().version());
    request.set_ordinal(first.ordinal().value());
    request.set_previous_origin_seq(first.counter() - 1);
    for (const auto& record : records) {
      std::string payload;
      if (record.has_write()) payload.assign(record.write().extents(0).length(), 'x');
      *request.add_entries() = RecordMaker::Seal(record, payload);
    }
    return request;
  }
  // One batch in a stream of its own.
  grpc::Status AppendOne(const v1::AppendRequest& request, v1::AppendResponse* response) {
    auto context = Context();
    auto call = stub_->Append(context.get());
    call->Write(request);
    call->WritesDone();
    call->Read(response);
    return call->Finish();
  }
  void AppendOk(const std::vector<record::v1::Record>& records, uint64_t epoch = 1) {
    v1::AppendResponse response;
    auto status = AppendOne(Request(records, epoch), &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    ASSERT_EQ(response.origin_seq(), Version(records.back().version()).counter());
  }
  v1::Journal GetJournal() {
    v1::GetJournalRequest request;
    request.set_collection("www");
    v1::GetJournalResponse response;
    auto context = Context();
    EXPECT_TRUE(stub_->GetJournal(context.get(), request, &response).ok());
    return response.journal();
  }
  // `count` files of one node, a batch each.
  void AppendFiles(RecordMaker& node, int count) {
    auto context = Context();
    auto call = stub_->Append(context.get());
    for (int i = 0; i < count; ++i) {
      const uint64_t file = node.NewObject();
      ASSERT_TRUE(call->Write(Request({node.Create(kRoot, absl::StrCat("f", file), file)})));
    }
    call->WritesDone();
    v1::AppendResponse response;
    int confirmed = 0;
    while (call->Read(&response)) ++confirmed;
    auto status = call->Finish();
    ASSERT_TRUE(status.ok()) << status.error_message();
    ASSERT_EQ(confirmed, count);
  }
  static v1::SubscribeRequest From(uint64_t seq) {
    v1::SubscribeRequest request;
    request.set_collection("www");
    request.set_from_seq(seq);
    return request;
  }
  // Reads entries until the one at `last`; all must follow each other from `next` on.
  static std::vector<record::v1::Entry> ReadUpTo(SubscribeCall& call, uint64_t next,
                                                 uint64_t last) {
    std::vector<record::v1::Entry> entries;
    v1::SubscribeResponse response;
    while (next <= last) {
      if (!call.Read(&response)) {
        ADD_FAILURE() << "ended: " << call.Finish().error_message();
        break;
      }
      EXPECT_LE(response.entries_size(), kMaxBatchRecords);
      for (auto& entry : *response.mutable_entries()) {
        EXPECT_EQ(entry.seq(), next++);
        EXPECT_LE(entry.seq(), response.head_seq());
        entries.push_back(std::move(entry));
      }
    }
    return entries;
  }

  size_t tail_cache_bytes_ = 32 << 20;
  tests::TempDir dir_;
  std::unique_ptr<RocksDbJournalStore> store_;
  std::unique_ptr<JournalGrpcService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::JournalService::Stub> stub_;
  std::unique_ptr<v1::JournalService::Stub> slow_stub_;
};

TEST_F(JournalServiceTest, ManyBatchesInFlightAreAnsweredInOrder) {
  auto context = Context();
  auto call = stub_->Append(context.get());
  constexpr int kBatches = 500;
  std::thread sender([&] {
    RecordMaker node(3);
    for (int i = 0; i < kBatches; ++i) {
      const uint64_t file = node.NewObject();
      call->Write(
          Request({node.Create(kRoot, absl::StrCat("f", i), file), node.Write(file, 0, 9)}));
    }
    call->WritesDone();
  });
  v1::AppendResponse response;
  for (uint64_t i = 1; i <= kBatches; ++i) {
    EXPECT_TRUE(call->Read(&response));
    EXPECT_EQ(response.origin_seq(), 2 * i);
    EXPECT_EQ(response.seq(), 2 * i);
  }
  EXPECT_FALSE(call->Read(&response));
  sender.join();
  EXPECT_TRUE(call->Finish().ok());
  EXPECT_EQ(GetJournal().head_seq(), 2u * kBatches);
}

TEST_F(JournalServiceTest, TellsWhatItHasOfAnOrigin) {
  RecordMaker node(3);
  AppendOk({node.Create(kRoot, "a", node.NewObject())});
  for (const auto& [ordinal, last] : {std::pair(3u, 1u), std::pair(4u, 0u)}) {
    v1::GetJournalRequest request;
    request.set_collection("www");
    request.set_origin(ordinal);
    v1::GetJournalResponse response;
    auto context = Context();
    ASSERT_TRUE(stub_->GetJournal(context.get(), request, &response).ok());
    EXPECT_EQ(response.journal().head_seq(), 1u);
    EXPECT_EQ(response.origin().last_origin_seq(), last);
    EXPECT_EQ(response.origin().last_seq(), last);
    EXPECT_EQ(response.origin().last_xxh3().size(), last == 0 ? 0u : 16u);
  }
}

TEST_F(JournalServiceTest, SubscribersTail) {
  auto context = Context();
  auto call = stub_->Subscribe(context.get(), From(1));
  RecordMaker node(3);
  std::string chain;
  for (uint64_t i = 1; i <= 20; ++i) {
    AppendOk({node.Create(kRoot, absl::StrCat("f", i), node.NewObject())});
    auto entries = ReadUpTo(*call, i, i);
    ASSERT_EQ(entries.size(), 1u);
    chain = ChainHash(chain, Seq(i), entries[0].record());
    EXPECT_EQ(entries[0].chain(), chain);
  }
  context->TryCancel();
  v1::SubscribeResponse rest;
  while (call->Read(&rest)) {
  }
  EXPECT_EQ(call->Finish().error_code(), StatusCode::CANCELLED);
}

TEST_F(JournalServiceTest, HeartbeatsTellTheHead) {
  RecordMaker node(3);
  AppendOk({node.Create(kRoot, "a", node.NewObject())});
  auto context = Context();
  auto call = stub_->Subscribe(context.get(), From(2));
  v1::SubscribeResponse response;
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(call->Read(&response));
    EXPECT_EQ(response.entries_size(), 0);
    EXPECT_EQ(response.head_seq(), 1u);
    EXPECT_EQ(response.head_bytes(), GetJournal().head_bytes());
    EXPECT_GT(response.now_ns(), 0);
  }
}

TEST_F(JournalServiceTest, LateSubscribersReadTheDiskThenTheTail) {
  StopServer();
  tail_cache_bytes_ = 4000;  // holds a few entries only
  StartServer();
  RecordMaker node(3);
  AppendFiles(node, 300);
  const uint64_t file = node.NewObject();
  AppendOk({node.Create(kRoot, "big", file), node.Write(file, 0, 500'000)});
  auto context = Context();
  auto call = stub_->Subscribe(context.get(), From(1));
  auto entries = ReadUpTo(*call, 1, 302);
  ASSERT_EQ(entries.size(), 302u);
  auto record = OpenRecord(entries.back());
  ASSERT_TRUE(record.ok());
  EXPECT_EQ(*OpenPayload(entries.back(), *record), std::string(500'000, 'x'));
  AppendFiles(node, 5);
  ReadUpTo(*call, 303, 307);
}

TEST_F(JournalServiceTest, PayloadsAreLeftOutForTheirOrigin) {
  RecordMaker node(3);
  const uint64_t file = node.NewObject();
  AppendOk({node.Create(kRoot, "a", file), node.Write(file, 0, 50)});
  for (bool own : {true, false}) {
    auto request = From(1);
    request.set_skip_payloads_of(own ? 3 : 4);
    auto context = Context();
    auto call = stub_->Subscribe(context.get(), request);
    auto entries = ReadUpTo(*call, 1, 2);
    ASSERT_EQ(entries.size(), 2u);
    EXPECT_EQ(entries[1].payload().empty(), own);
    EXPECT_EQ(entries[1].payload_length(), 50u);
  }
}

TEST_F(JournalServiceTest, ASlowSubscriberHoldsNobodyBack) {
  auto slow_context = Context();
  auto slow = stub_->Subscribe(slow_context.get(), From(1));  // reads nothing until the end
  auto context = Context();
  auto call = stub_->Subscribe(context.get(), From(1));
  RecordMaker node(3);
  const uint64_t file = node.NewObject();
  AppendOk({node.Create(kRoot, "a", file)});
  // Far more than flow control and sockets hold.
  std::string noise(900'000, 0);
  uint64_t state = 1;
  for (uint64_t i = 2; i <= 60; ++i) {
    for (char& c : noise) c = static_cast<char>((state = state * 6364136223846793005u + 1) >> 56);
    const auto record = node.Write(file, 0, noise.size());
    auto request = Request({record});
    *request.mutable_entries(0) = RecordMaker::Seal(record, noise);
    v1::AppendResponse response;
    ASSERT_TRUE(AppendOne(request, &response).ok());
    ReadUpTo(*call, i == 2 ? 1 : i, i);
  }
  ReadUpTo(*slow, 1, 60);
}

TEST_F(JournalServiceTest, AStaleEpochEndsTheStream) {
  RecordMaker node(3);
  v1::FenceRequest fence;
  fence.set_collection("www");
  fence.set_epoch(5);
  v1::FenceResponse fenced;
  auto fence_context = Context();
  ASSERT_TRUE(stub_->Fence(fence_context.get(), fence, &fenced).ok());
  EXPECT_EQ(fenced.head_seq(), 0u);

  auto context = Context();
  auto call = stub_->Append(context.get());
  for (int i = 0; i < 10; ++i) {
    if (!call->Write(Request({node.Create(kRoot, absl::StrCat(i), node.NewObject())}, 4))) break;
  }
  v1::AppendResponse response;
  EXPECT_FALSE(call->Read(&response));
  const auto status = call->Finish();
  EXPECT_EQ(status.error_code(), StatusCode::FAILED_PRECONDITION) << status.error_message();
  const auto& trailing = context->GetServerTrailingMetadata();
  const auto found = trailing.find("intermezzo-append-refusal-bin");
  ASSERT_NE(found, trailing.end());
  v1::AppendRefusal refusal;
  ASSERT_TRUE(refusal.ParseFromArray(found->second.data(), found->second.size()));
  EXPECT_EQ(refusal.reason(), v1::APPEND_REFUSAL_REASON_STALE_EPOCH);
  EXPECT_EQ(refusal.epoch(), 5u);
  EXPECT_EQ(GetJournal().head_seq(), 0u);

  fence.set_epoch(4);
  auto again = Context();
  EXPECT_EQ(stub_->Fence(again.get(), fence, &fenced).error_code(),
            StatusCode::FAILED_PRECONDITION);
}

TEST_F(JournalServiceTest, ARefusedBatchLeavesTheOnesBefore) {
  RecordMaker node(3), other(4);
  AppendOk({node.Create(kRoot, "a", node.NewObject())});
  auto context = Context();
  auto call = stub_->Append(context.get());
  call->Write(Request({other.Create(kRoot, "b", other.NewObject())}));
  call->Write(Request({other.Create(kRoot, "a", other.NewObject())}));  // a name that is there
  call->Write(Request({other.Create(kRoot, "c", other.NewObject())}));
  v1::AppendResponse response;
  ASSERT_TRUE(call->Read(&response));
  EXPECT_EQ(response.origin_seq(), 1u);
  EXPECT_FALSE(call->Read(&response));
  const auto status = call->Finish();
  EXPECT_EQ(status.error_code(), StatusCode::ABORTED);
  EXPECT_THAT(status.error_message(), ::testing::HasSubstr("touch 0"));
  EXPECT_EQ(GetJournal().head_seq(), 2u);
}

TEST_F(JournalServiceTest, MalformedAndOversized) {
  RecordMaker node(3);
  const auto good = Request({node.Create(kRoot, "a", node.NewObject())});
  v1::AppendResponse response;
  auto code = [&](const v1::AppendRequest& request) {
    return AppendOne(request, &response).error_code();
  };
  auto request = good;
  request.set_collection("no/such name");
  EXPECT_EQ(code(request), StatusCode::INVALID_ARGUMENT);
  request.set_collection("nobody");
  EXPECT_EQ(code(request), StatusCode::NOT_FOUND);
  request = good;
  request.mutable_entries(0)->set_record("nonsense");
  EXPECT_EQ(code(request), StatusCode::INVALID_ARGUMENT);
  request = good;
  for (int i = 0; i < kMaxBatchRecords; ++i) *request.add_entries() = good.entries(0);
  EXPECT_EQ(code(request), StatusCode::INVALID_ARGUMENT);
  request = good;
  request.mutable_entries(0)->set_payload(std::string(kMaxBatchBytes + 1, 'x'));
  EXPECT_EQ(code(request), StatusCode::INVALID_ARGUMENT);
  request.mutable_entries(0)->set_payload(std::string(kMaxMessageBytes + 1, 'x'));
  EXPECT_EQ(code(request), StatusCode::RESOURCE_EXHAUSTED) << "gRPC's own limit";
  EXPECT_EQ(GetJournal().head_seq(), 0u);
  EXPECT_EQ(code(good), StatusCode::OK);
}

TEST_F(JournalServiceTest, DuplicatesAfterARestartAreConfirmedAgain) {
  RecordMaker node(3);
  const auto first = Request(
      {node.Create(kRoot, "a", node.NewObject()), node.Create(kRoot, "b", node.NewObject())});
  v1::AppendResponse response;
  ASSERT_TRUE(AppendOne(first, &response).ok());
  StopServer();
  StartServer();
  response.Clear();
  ASSERT_TRUE(AppendOne(first, &response).ok());
  EXPECT_EQ(response.origin_seq(), 2u);
  EXPECT_EQ(response.seq(), 2u);
  EXPECT_EQ(GetJournal().head_seq(), 2u);
  auto context = Context();
  auto call = stub_->Subscribe(context.get(), From(1));
  EXPECT_EQ(ReadUpTo(*call, 1, 2).size(), 2u);
}

TEST_F(JournalServiceTest, SubscribeRefusesWhatItCannotRead) {
  RecordMaker node(3);
  AppendFiles(node, 3);
  auto code = [&](v1::SubscribeRequest request) {
    auto context = Context();
    auto call = stub_->Subscribe(context.get(), request);
    v1::SubscribeResponse response;
    EXPECT_FALSE(call->Read(&response));
    return call->Finish().error_code();
  };
  EXPECT_EQ(code(From(0)), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code(From(5)), StatusCode::OUT_OF_RANGE);
  auto unknown = From(1);
  unknown.set_collection("nobody");
  EXPECT_EQ(code(unknown), StatusCode::NOT_FOUND);
  auto diverged = From(4);
  diverged.set_previous_chain("another history!");
  EXPECT_EQ(code(diverged), StatusCode::DATA_LOSS);
  // Trimmed.
  v1::SetCursorsRequest cursors;
  cursors.set_collection("www");
  auto* cursor = cursors.add_cursors();
  cursor->set_node("n1");
  cursor->set_seq(2);
  v1::SetCursorsResponse empty;
  auto context = Context();
  ASSERT_TRUE(stub_->SetCursors(context.get(), cursors, &empty).ok());
  auto journal = *store_->Find(*CollectionName::Parse("www"));
  (void)journal->Trim();  // the background may have been first
  EXPECT_EQ(GetJournal().first_seq(), 3u);
  EXPECT_EQ(code(From(2)), StatusCode::OUT_OF_RANGE);
}

// One that does not read what it is sent, and is no registered replica: the journal does not wait.
TEST_F(JournalServiceTest, ASubscriberThatIsTrimmedAwayIsTold) {
  constexpr uint64_t kWrites = 40;
  RecordMaker node(3);
  const uint64_t file = node.NewObject();
  AppendOk({node.Create(kRoot, "f", file)});
  auto context = Context();
  auto call = slow_stub_->Subscribe(context.get(), From(1));
  ReadUpTo(*call, 1, 1);
  std::string noise(1 << 20, '\0');  // zstd makes little of it
  std::mt19937_64 random(1);
  for (char& byte : noise) byte = static_cast<char>(random());
  for (uint64_t i = 0; i < kWrites; ++i) {
    const record::v1::Record write = node.Write(file, 0, noise.size());
    v1::AppendRequest request = Request({write});
    *request.mutable_entries(0) = RecordMaker::Seal(write, noise);
    v1::AppendResponse confirmed;
    ASSERT_TRUE(AppendOne(request, &confirmed).ok());
  }
  v1::SetCursorsRequest cursors;
  cursors.set_collection("www");
  auto* cursor = cursors.add_cursors();
  cursor->set_node("n1");
  cursor->set_seq(1 + kWrites);
  v1::SetCursorsResponse empty;
  auto cursors_context = Context();
  ASSERT_TRUE(stub_->SetCursors(cursors_context.get(), cursors, &empty).ok());
  auto journal = *store_->Find(*CollectionName::Parse("www"));
  (void)journal->Trim();  // the background may have been first
  ASSERT_EQ(GetJournal().first_seq(), 2 + kWrites);
  // What was on its way comes whole and in order; then the stream says why it ends.
  uint64_t next = 2;
  v1::SubscribeResponse response;
  while (call->Read(&response)) {
    for (const auto& entry : response.entries()) {
      EXPECT_EQ(entry.seq(), next++);
      EXPECT_EQ(entry.payload_length(), entry.payload().size());
    }
  }
  EXPECT_LT(next, 2 + kWrites);
  const grpc::Status status = call->Finish();
  EXPECT_EQ(status.error_code(), StatusCode::OUT_OF_RANGE) << status.error_message();
}

TEST_F(JournalServiceTest, EntriesAreListedInPages) {
  RecordMaker node(3);
  AppendFiles(node, 25);
  v1::ListEntriesRequest request;
  request.set_collection("www");
  request.set_page_size(10);
  uint64_t next = 1;
  for (int page = 0; page < 3; ++page) {
    v1::ListEntriesResponse response;
    auto context = Context();
    ASSERT_TRUE(stub_->ListEntries(context.get(), request, &response).ok());
    for (const auto& entry : response.entries()) EXPECT_EQ(entry.seq(), next++);
    request.set_page_token(response.next_page_token());
    EXPECT_EQ(response.next_page_token().empty(), page == 2);
  }
  EXPECT_EQ(next, 26u);
}

TEST_F(JournalServiceTest, DeletingEndsSubscriptions) {
  auto context = Context();
  auto call = stub_->Subscribe(context.get(), From(1));
  v1::SubscribeResponse response;
  ASSERT_TRUE(call->Read(&response));  // a heartbeat: it stands
  v1::DeleteJournalRequest request;
  request.set_collection("www");
  v1::DeleteJournalResponse empty;
  auto delete_context = Context();
  ASSERT_TRUE(stub_->DeleteJournal(delete_context.get(), request, &empty).ok());
  while (call->Read(&response)) {
  }
  EXPECT_EQ(call->Finish().error_code(), StatusCode::NOT_FOUND);
}

TEST_F(JournalServiceTest, DrainEndsStreamsCleanly) {
  auto subscribe_context = Context();
  auto subscription = stub_->Subscribe(subscribe_context.get(), From(1));
  auto append_context = Context();
  auto append = stub_->Append(append_context.get());
  RecordMaker node(3);
  append->Write(Request({node.Create(kRoot, "a", node.NewObject())}));
  v1::AppendResponse confirmed;
  ASSERT_TRUE(append->Read(&confirmed));
  ReadUpTo(*subscription, 1, 1);
  service_->Drain(absl::Seconds(30));
  v1::SubscribeResponse response;
  while (subscription->Read(&response)) {
  }
  EXPECT_EQ(subscription->Finish().error_code(), StatusCode::UNAVAILABLE);
  EXPECT_FALSE(append->Read(&confirmed));
  EXPECT_EQ(append->Finish().error_code(), StatusCode::UNAVAILABLE);
}

}  // namespace
}  // namespace intermezzo::journal
