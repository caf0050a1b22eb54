#include "services/forwarder-service/grpc/progress_calls.h"

#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "services/common/config/config.h"
#include "services/common/status/status.h"
#include "services/common/types/names.h"
#include "services/forwarder-service/grpc/ask_journal.h"
#include "services/forwarder-service/grpc/collection.h"
#include "services/forwarder-service/grpc/directory.h"
#include "services/forwarder-service/grpc/open_calls.h"

namespace intermezzo::forwarder {
namespace {

// A unary call that is answered later. Keeps itself alive until gRPC says that it is over.
class UnaryCall : public grpc::ServerUnaryReactor,
                  public OpenCall,
                  public std::enable_shared_from_this<UnaryCall> {
 public:
  explicit UnaryCall(std::shared_ptr<Environment> environment)
      : environment_(std::move(environment)) {}

  grpc::ServerUnaryReactor* Start() {
    self_ = shared_from_this();
    call_ = environment_->calls->Add(self_);
    Begin();
    return this;
  }
  void Close(const absl::Status& status) override { End(status); }
  void OnCancel() override { End(absl::CancelledError("the caller went away")); }
  void OnDone() override {
    std::shared_ptr<OpenCalls> calls = environment_->calls;
    uint64_t call = call_;
    self_.reset();  // Perhaps the last.
    calls->Remove(call);
  }

 protected:
  virtual void Begin() = 0;
  // Called once, when the call ends.
  virtual void Ended() {}

  void End(const absl::Status& status) {
    {
      absl::MutexLock lock(&end_mu_);
      if (ended_) return;
      ended_ = true;
    }
    Ended();
    Finish(ToGrpc(status));
  }
  // As End(OK), where the call has not ended: `fill` writes the response.
  void Answer(const std::function<void()>& fill) {
    {
      absl::MutexLock lock(&end_mu_);
      if (ended_) return;
      ended_ = true;
      fill();
    }
    Ended();
    Finish(grpc::Status::OK);
  }

  // Finds the collection, asking the registry where it is not known, then calls `then`.
  void WithCollection(const std::string& name, bool may_refresh,
                      std::function<void(std::shared_ptr<Collection>)> then) {
    if (auto parsed = CollectionName::Parse(name); !parsed.ok()) return End(parsed.status());
    absl::StatusOr<std::shared_ptr<Collection>> found = environment_->directory->Find(name);
    if (found.ok()) return then(*std::move(found));
    if (!may_refresh) return End(found.status());
    environment_->directory->Refresh([self = shared_from_this(), name,
                                      then = std::move(then)](const absl::Status& status) {
      if (status.ok()) return self->WithCollection(name, /*may_refresh=*/false, then);
      self->End(
          absl::UnavailableError(absl::StrCat("the registry cannot be asked: ", status.message())));
    });
  }

  const std::shared_ptr<Environment> environment_;

 private:
  uint64_t call_ = 0;
  std::shared_ptr<UnaryCall> self_;
  absl::Mutex end_mu_;
  bool ended_ ABSL_GUARDED_BY(end_mu_) = false;
};

v1::ReplicaState ToProto(ReplicaState state) {
  switch (state) {
    case ReplicaState::kAway:
      return v1::REPLICA_STATE_AWAY;
    case ReplicaState::kCatchingUp:
      return v1::REPLICA_STATE_CATCHING_UP;
    case ReplicaState::kLive:
      return v1::REPLICA_STATE_LIVE;
    case ReplicaState::kLagging:
      return v1::REPLICA_STATE_LAGGING;
    case ReplicaState::kNeedsSnapshot:
      return v1::REPLICA_STATE_NEEDS_SNAPSHOT;
  }
  return v1::REPLICA_STATE_UNSPECIFIED;
}

class ListCall final : public UnaryCall {
 public:
  ListCall(std::shared_ptr<Environment> environment, const v1::ListReplicaProgressRequest* request,
           v1::ListReplicaProgressResponse* response)
      : UnaryCall(std::move(environment)), request_(request), response_(response) {}

 private:
  void Begin() override {
    if (!request_->collection().empty()) {
      return WithCollection(
          request_->collection(), /*may_refresh=*/true,
          [this](std::shared_ptr<Collection> collection) { Answer([&] { Add(*collection); }); });
    }
    Answer([this] {
      for (const auto& collection : environment_->directory->All()) Add(*collection);
    });
  }

  void Add(const Collection& collection) {
    for (const ReplicaRow& row : collection.Rows()) {
      v1::ReplicaProgress& replica = *response_->add_replicas();
      replica.set_collection(collection.name());
      replica.set_node(row.node);
      replica.set_state(ToProto(row.state));
      replica.set_applied_seq(row.applied.value());
      replica.set_head_seq(row.head.value());
      replica.set_lag_records(row.lag.records);
      replica.set_lag_bytes(row.lag.bytes);
      *replica.mutable_lag() = intermezzo::ToProto(row.lag.age);
    }
  }

  const v1::ListReplicaProgressRequest* const request_;
  v1::ListReplicaProgressResponse* const response_;
};

class WaitCall final : public UnaryCall {
 public:
  WaitCall(std::shared_ptr<Environment> environment, const v1::WaitReplicasRequest* request,
           v1::WaitReplicasResponse* response)
      : UnaryCall(std::move(environment)), request_(request), response_(response) {}

 private:
  void Begin() override {
    WithCollection(request_->collection(), /*may_refresh=*/true,
                   [this](std::shared_ptr<Collection> collection) {
                     if (request_->seq() != 0) {
                       return WaitFor(std::move(collection), Seq(request_->seq()));
                     }
                     AskJournal(
                         environment_, collection->name(),
                         [self = shared_from_this(), this,
                          collection](const absl::StatusOr<journal::v1::Journal>& journal) {
                           if (!journal.ok()) {
                             return End(absl::Status(journal.status().code(),
                                                     absl::StrCat("the journal cannot be asked: ",
                                                                  journal.status().message())));
                           }
                           WaitFor(collection, Seq(journal->head_seq()));
                         });
                   });
  }

  void WaitFor(std::shared_ptr<Collection> collection, Seq seq) {
    {
      absl::MutexLock lock(&mu_);
      if (over_) return;
      collection_ = collection;
    }
    absl::StatusOr<uint64_t> number =
        collection->Wait(seq, [self = shared_from_this(), this, seq](const absl::Status& status) {
          if (!status.ok()) return End(status);
          Answer([&] { response_->set_seq(seq.value()); });
        });
    if (!number.ok()) return End(number.status());
    bool over;
    {
      absl::MutexLock lock(&mu_);
      waiter_ = *number;
      over = over_;
    }
    if (over) collection->CancelWait(*number);
  }

  void Ended() override {
    std::shared_ptr<Collection> collection;
    uint64_t waiter;
    {
      absl::MutexLock lock(&mu_);
      over_ = true;
      collection = collection_;
      waiter = waiter_;
    }
    if (waiter != 0) collection->CancelWait(waiter);
  }

  const v1::WaitReplicasRequest* const request_;
  v1::WaitReplicasResponse* const response_;

  absl::Mutex mu_;
  bool over_ ABSL_GUARDED_BY(mu_) = false;
  std::shared_ptr<Collection> collection_ ABSL_GUARDED_BY(mu_);
  uint64_t waiter_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace

grpc::ServerUnaryReactor* StartListReplicaProgress(std::shared_ptr<Environment> environment,
                                                   const v1::ListReplicaProgressRequest* request,
                                                   v1::ListReplicaProgressResponse* response) {
  return std::make_shared<ListCall>(std::move(environment), request, response)->Start();
}

grpc::ServerUnaryReactor* StartWaitReplicas(std::shared_ptr<Environment> environment,
                                            const v1::WaitReplicasRequest* request,
                                            v1::WaitReplicasResponse* response) {
  return std::make_shared<WaitCall>(std::move(environment), request, response)->Start();
}

}  // namespace intermezzo::forwarder
