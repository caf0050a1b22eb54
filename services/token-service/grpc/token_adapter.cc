#include "services/token-service/grpc/token_adapter.h"

#include <map>
#include <utility>

#include "services/common/config/config.h"
#include "services/common/status/status.h"
#include "services/token-service/registry/request_memory.h"

namespace intermezzo::token {
namespace {

Holder FromProto(const v1::Holder& holder) { return Holder{holder.node(), holder.instance()}; }

grpc::ServerUnaryReactor* Answered(grpc::CallbackServerContext* context,
                                   const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

// One waiting Acquire. gRPC calls OnCancel and OnDone only after the handler has returned it.
class AcquireReactor final : public grpc::ServerUnaryReactor {
 public:
  AcquireReactor(TokenServer& server, const v1::AcquireRequest& request,
                 v1::AcquireResponse* response)
      : server_(server), response_(response) {
    id_ = server_.Acquire(request.collection(), FromProto(request.holder()),
                          [this](const absl::StatusOr<Grant>& grant) { Answer(grant); });
  }

 private:
  void Answer(const absl::StatusOr<Grant>& grant) {
    if (grant.ok()) {
      response_->set_epoch(grant->epoch.value());
      response_->set_head_seq(grant->head_seq.value());
      *response_->mutable_lease() = ToProto(grant->lease);
    }
    Finish(ToGrpc(grant.status()));  // the reactor may be gone now
  }
  // The caller has gone or its deadline has passed.
  void OnCancel() override { server_.Cancel(id_); }
  void OnDone() override { delete this; }

  TokenServer& server_;
  v1::AcquireResponse* const response_;
  RequestId id_ = 0;
};

// Recalls that the stream has not sent, the newest of each collection.
struct PendingRecalls {
  absl::Mutex mu;
  std::map<std::string, RecallNotice> notices ABSL_GUARDED_BY(mu);
};

}  // namespace

grpc::ServerUnaryReactor* TokenAdapter::Acquire(grpc::CallbackServerContext* context,
                                                const v1::AcquireRequest* request,
                                                v1::AcquireResponse* response) {
  absl::Status status = registry_.CheckHolder(request->collection(), FromProto(request->holder()));
  if (!status.ok()) return Answered(context, status);
  return new AcquireReactor(server_, *request, response);
}

grpc::ServerUnaryReactor* TokenAdapter::Renew(grpc::CallbackServerContext* context,
                                              const v1::RenewRequest* request,
                                              v1::RenewResponse* response) {
  const Holder holder = FromProto(request->holder());
  if (absl::Status status = registry_.CheckNode(holder); !status.ok()) {
    return Answered(context, status);
  }
  absl::StatusOr<Renewal> renewal =
      server_.Renew(request->collection(), holder, Epoch(request->epoch()));
  if (renewal.ok()) {
    *response->mutable_lease() = ToProto(renewal->lease);
    response->set_recalled(renewal->recalled);
  }
  return Answered(context, renewal.status());
}

grpc::ServerUnaryReactor* TokenAdapter::Release(grpc::CallbackServerContext* context,
                                                const v1::ReleaseRequest* request,
                                                v1::ReleaseResponse* response) {
  // A release is as good from an instance that lost its name meanwhile: the epoch says enough.
  return Answered(context, server_.Release(request->collection(), FromProto(request->holder()),
                                           Epoch(request->epoch())));
}

grpc::ServerWriteReactor<v1::WatchRecallsResponse>* TokenAdapter::WatchRecalls(
    grpc::CallbackServerContext* context, const v1::WatchRecallsRequest* request) {
  auto pending = std::make_shared<PendingRecalls>();
  auto stream =
      WatchStream<v1::WatchRecallsResponse>::Make([pending](v1::WatchRecallsResponse& next) {
        absl::MutexLock lock(&pending->mu);
        if (pending->notices.empty()) return false;
        const RecallNotice& notice = pending->notices.begin()->second;
        next.set_collection(notice.collection);
        next.set_epoch(notice.epoch.value());
        *next.mutable_deadline() = ToProto(notice.left);
        pending->notices.erase(pending->notices.begin());
        return true;
      });
  const Holder holder = FromProto(request->holder());
  if (absl::Status status = registry_.CheckNode(holder); !status.ok()) {
    stream->End(status);
    return stream.get();
  }
  const uint64_t id = server_.Subscribe(holder, [pending, stream](const RecallNotice& notice) {
    {
      absl::MutexLock lock(&pending->mu);
      pending->notices[notice.collection] = notice;
    }
    stream->Wake();
  });
  const uint64_t open = streams_.Add(stream);
  stream->SetOver([this, id, open] {
    server_.Unsubscribe(id);
    streams_.Remove(open);
  });
  return stream.get();
}

grpc::ServerUnaryReactor* TokenAdapter::GetToken(grpc::CallbackServerContext* context,
                                                 const v1::GetTokenRequest* request,
                                                 v1::GetTokenResponse* response) {
  absl::StatusOr<TokenView> view = server_.View(request->collection());
  if (view.ok()) {
    v1::Token& token = *response->mutable_token();
    token.set_collection(request->collection());
    token.set_epoch(view->epoch.value());
    token.set_holder(view->holder);
    for (const std::string& node : view->queue) token.add_queue(node);
    *token.mutable_remaining() = ToProto(view->remaining);
    token.set_recalling(view->recalling);
  }
  return Answered(context, view.status());
}

grpc::ServerUnaryReactor* TokenAdapter::RecallToken(grpc::CallbackServerContext* context,
                                                    const v1::RecallTokenRequest* request,
                                                    v1::RecallTokenResponse* response) {
  const std::string& id = request->request_id();
  if (absl::Status status = CheckRequestId(id); !status.ok()) return Answered(context, status);
  if (request->force() && request->epoch() == 0) {
    return Answered(context, absl::InvalidArgumentError(
                                 "force needs the epoch of the grant that is to be taken away: "
                                 "GetToken says it"));
  }
  if (RecalledBefore(id)) return Answered(context, absl::OkStatus());
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  server_.Recall(request->collection(), request->force(), Epoch(request->epoch()),
                 [this, id, reactor](const absl::Status& status) {
                   if (status.ok()) RememberRecall(id);
                   reactor->Finish(ToGrpc(status));
                 });
  return reactor;
}

bool TokenAdapter::RecalledBefore(const std::string& request_id) {
  absl::MutexLock lock(&mu_);
  return recall_ids_.contains(request_id);
}

void TokenAdapter::RememberRecall(const std::string& request_id) {
  constexpr size_t kRemembered = 1000;
  absl::MutexLock lock(&mu_);
  if (request_id.empty() || !recall_ids_.insert(request_id).second) return;
  recalls_.push_back(request_id);
  if (recalls_.size() > kRemembered) {
    recall_ids_.erase(recalls_.front());
    recalls_.pop_front();
  }
}

}  // namespace intermezzo::token
