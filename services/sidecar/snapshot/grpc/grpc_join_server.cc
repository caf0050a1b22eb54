#include "services/sidecar/snapshot/grpc/grpc_join_server.h"

#include <grpcpp/client_context.h>

#include <chrono>
#include <set>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "intermezzo/forwarder/v1/forwarder.grpc.pb.h"
#include "intermezzo/journal/v1/journal.grpc.pb.h"
#include "services/common/status/status.h"

namespace intermezzo::sidecar {
namespace {

using forwarder::v1::FetchSnapshotRequest;
using forwarder::v1::FetchSnapshotResponse;
using forwarder::v1::ForwarderService;
using journal::v1::JournalService;

constexpr std::chrono::seconds kJournalTimeout{5};

// Contexts of calls under way, to cancel them.
class Calls {
 public:
  // False: cancelled already.
  bool Add(grpc::ClientContext* context) {
    absl::MutexLock lock(&mu_);
    if (cancelled_) return false;
    contexts_.insert(context);
    return true;
  }
  void Remove(grpc::ClientContext* context) {
    absl::MutexLock lock(&mu_);
    contexts_.erase(context);
  }
  void Cancel() {
    absl::MutexLock lock(&mu_);
    cancelled_ = true;
    for (grpc::ClientContext* context : contexts_) context->TryCancel();
  }

 private:
  absl::Mutex mu_;
  bool cancelled_ ABSL_GUARDED_BY(mu_) = false;
  std::set<grpc::ClientContext*> contexts_ ABSL_GUARDED_BY(mu_);
};

class GrpcSnapshotFetch final : public SnapshotFetch {
 public:
  GrpcSnapshotFetch(ForwarderService::Stub* stub, std::shared_ptr<Calls> calls,
                    std::string collection, std::string node)
      : calls_(std::move(calls)) {
    hello_.set_collection(std::move(collection));
    hello_.set_node(std::move(node));
    if (calls_->Add(&context_)) stream_ = stub->FetchSnapshot(&context_);
  }
  ~GrpcSnapshotFetch() override {
    if (stream_ != nullptr && !finished_) {
      context_.TryCancel();
      (void)stream_->Finish();
    }
    calls_->Remove(&context_);
  }

  absl::Status Send(const forwarder::v1::SnapshotQuery& query) override {
    if (stream_ == nullptr) return absl::CancelledError("joining was cancelled");
    FetchSnapshotRequest request = std::exchange(hello_, FetchSnapshotRequest());
    *request.mutable_query() = query;
    return stream_->Write(request) ? absl::OkStatus() : End();
  }

  absl::StatusOr<forwarder::v1::SnapshotPart> Next() override {
    if (stream_ == nullptr) return absl::CancelledError("joining was cancelled");
    FetchSnapshotResponse response;
    if (!stream_->Read(&response)) return End();
    return std::move(*response.mutable_part());
  }

 private:
  absl::Status End() {
    if (!finished_) {
      finished_ = true;
      end_ = FromGrpc(stream_->Finish());
      if (end_.ok()) end_ = absl::UnavailableError("the snapshot ended early");
    }
    return end_;
  }

  const std::shared_ptr<Calls> calls_;
  FetchSnapshotRequest hello_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<FetchSnapshotRequest, FetchSnapshotResponse>> stream_;
  bool finished_ = false;
  absl::Status end_;
};

class GrpcJoinServer final : public JoinServer {
 public:
  GrpcJoinServer(std::shared_ptr<grpc::Channel> journal, std::shared_ptr<grpc::Channel> forwarder,
                 std::string collection, std::string node)
      : journal_(JournalService::NewStub(std::move(journal))),
        forwarder_(ForwarderService::NewStub(std::move(forwarder))),
        collection_(std::move(collection)),
        node_(std::move(node)) {}

  absl::StatusOr<JournalPosition> Journal() override {
    auto response = GetJournal(Ordinal());
    if (!response.ok()) return response.status();
    return JournalPosition{Seq(response->journal().head_seq()),
                           Seq(response->journal().first_seq())};
  }

  absl::StatusOr<OwnRecords> Own(Ordinal ordinal) override {
    auto response = GetJournal(ordinal);
    if (!response.ok()) return response.status();
    if (!response->has_origin()) {
      return absl::FailedPreconditionError("the journal-service is too old: it tells of no origin");
    }
    return OwnRecords{response->origin().last_origin_seq(), Seq(response->origin().last_seq()),
                      response->origin().last_xxh3()};
  }

  std::unique_ptr<SnapshotFetch> Fetch() override {
    return std::make_unique<GrpcSnapshotFetch>(forwarder_.get(), calls_, collection_, node_);
  }

  void Cancel() override { calls_->Cancel(); }

 private:
  absl::StatusOr<journal::v1::GetJournalResponse> GetJournal(Ordinal origin) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kJournalTimeout);
    if (!calls_->Add(&context)) return absl::CancelledError("joining was cancelled");
    journal::v1::GetJournalRequest request;
    request.set_collection(collection_);
    request.set_origin(static_cast<uint32_t>(origin.value()));
    journal::v1::GetJournalResponse response;
    const grpc::Status status = journal_->GetJournal(&context, request, &response);
    calls_->Remove(&context);
    if (!status.ok()) return FromGrpc(status);
    return response;
  }

  const std::unique_ptr<JournalService::Stub> journal_;
  const std::unique_ptr<ForwarderService::Stub> forwarder_;
  const std::string collection_;
  const std::string node_;
  const std::shared_ptr<Calls> calls_ = std::make_shared<Calls>();
};

}  // namespace

std::unique_ptr<JoinServer> MakeGrpcJoinServer(std::shared_ptr<grpc::Channel> journal,
                                               std::shared_ptr<grpc::Channel> forwarder,
                                               std::string collection, std::string node) {
  return std::make_unique<GrpcJoinServer>(std::move(journal), std::move(forwarder),
                                          std::move(collection), std::move(node));
}

}  // namespace intermezzo::sidecar
