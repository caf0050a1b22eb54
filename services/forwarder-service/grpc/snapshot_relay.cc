#include "services/forwarder-service/grpc/snapshot_relay.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/log/log.h"
#include "services/common/types/names.h"
#include "services/forwarder-service/grpc/directory.h"
#include "services/forwarder-service/grpc/snapshot_sessions.h"

namespace intermezzo::forwarder {

void SnapshotRelay::Start() {
  auto self = shared_from_this();
  fetch_->SetEvents({.message = [self](v1::FetchSnapshotRequest& request) { self->Asked(request); },
                     .written =
                         [self] {
                           std::shared_ptr<ServeSide> serve;
                           {
                             absl::MutexLock lock(&self->mu_);
                             serve = self->serve_;
                           }
                           if (serve) serve->Read();
                         },
                     .ended = [self](const absl::Status& status) { self->FetchEnded(status); }});
  {
    absl::MutexLock lock(&mu_);
    moved_ = environment_->options.clock();
  }
  WatchIdle();
  fetch_->Read();
}

void SnapshotRelay::Asked(v1::FetchSnapshotRequest& request) {
  std::shared_ptr<ServeSide> serve;
  {
    absl::MutexLock lock(&mu_);
    if (ended_) return;
    moved_ = environment_->options.clock();
    if (!asked_) {
      asked_ = true;
      collection_name_ = request.collection();
      node_ = request.node();
      first_query_ = std::move(*request.mutable_query());
    } else {
      serve = serve_;
    }
  }
  if (request.query().query_case() == v1::SnapshotQuery::QUERY_NOT_SET && serve) {
    return End(absl::InvalidArgumentError("a request without a query"),
               absl::CancelledError("the joining replica sent a bad request"));
  }
  if (!serve) return Admit(/*may_refresh=*/true);
  v1::ServeSnapshotResponse query;
  *query.mutable_query() = std::move(*request.mutable_query());
  serve->Write(std::move(query));
}

void SnapshotRelay::Admit(bool may_refresh) {
  std::string name, node;
  bool has_query;
  {
    absl::MutexLock lock(&mu_);
    name = collection_name_;
    node = node_;
    has_query = first_query_.query_case() != v1::SnapshotQuery::QUERY_NOT_SET;
  }
  absl::Status bad = CollectionName::Parse(name).status();
  bad.Update(NodeName::Parse(node).status());
  if (!has_query) bad.Update(absl::InvalidArgumentError("a request without a query"));
  if (!bad.ok()) return End(bad, absl::OkStatus());

  absl::StatusOr<std::shared_ptr<Collection>> found = environment_->directory->Find(name);
  if (!found.ok() || !(*found)->Has(node)) {
    if (may_refresh) {
      environment_->directory->Refresh([self = shared_from_this()](const absl::Status& status) {
        if (status.ok()) return self->Admit(/*may_refresh=*/false);
        self->End(absl::UnavailableError(
                      absl::StrCat("the registry cannot be asked: ", status.message())),
                  absl::OkStatus());
      });
      return;
    }
    absl::Status refusal =
        found.ok() ? absl::FailedPreconditionError(absl::StrCat(
                         "node ", node, " has no registered replica of collection ", name))
                   : found.status();
    return End(refusal, absl::OkStatus());
  }
  {
    absl::MutexLock lock(&mu_);
    if (ended_) return;
    collection_ = *found;
    sources_ = collection_->SnapshotSources(node);
    std::reverse(sources_.begin(), sources_.end());
  }
  OrderNext();
}

void SnapshotRelay::OrderNext() {
  while (true) {
    std::string source, session;
    std::shared_ptr<Collection> collection;
    {
      absl::MutexLock lock(&mu_);
      if (ended_) return;
      if (sources_.empty()) break;
      source = std::move(sources_.back());
      sources_.pop_back();
      session = session_ = environment_->snapshots->Add(weak_from_this());
      collection = collection_;
    }
    if (collection->OrderServe(source, session)) {
      log::Info("a replica is asked to serve a snapshot",
                {{"collection", collection->name()}, {"node", source}});
      environment_->timers.After(environment_->options.serve_within,
                                 [weak = weak_from_this(), session] {
                                   if (auto self = weak.lock()) self->OrderExpired(session);
                                 });
      return;
    }
    environment_->snapshots->Remove(session);
  }
  End(absl::UnavailableError("no live replica can serve a snapshot now"), absl::OkStatus());
}

void SnapshotRelay::OrderExpired(const std::string& session) {
  {
    absl::MutexLock lock(&mu_);
    if (ended_ || serve_ || session_ != session) return;
    session_.clear();
  }
  environment_->snapshots->Remove(session);
  log::Warning("a replica that was asked to serve a snapshot did not call");
  OrderNext();
}

bool SnapshotRelay::Attach(const std::shared_ptr<ServeSide>& serve) {
  v1::ServeSnapshotResponse query;
  {
    absl::MutexLock lock(&mu_);
    if (ended_ || serve_) return false;
    serve_ = serve;
    moved_ = environment_->options.clock();
    *query.mutable_query() = std::move(first_query_);
  }
  auto self = shared_from_this();
  serve->SetEvents(
      {.message = [self](v1::ServeSnapshotRequest& request) { self->Answered(request); },
       .written = [self] { self->fetch_->Read(); },
       .ended = [self](const absl::Status& status) { self->ServeEnded(status); }});
  serve->Read();
  if (!serve->Write(std::move(query))) {
    ServeEnded(absl::CancelledError("the source went away"));
  }
  return true;
}

void SnapshotRelay::Answered(v1::ServeSnapshotRequest& request) {
  {
    absl::MutexLock lock(&mu_);
    if (ended_) return;
    moved_ = environment_->options.clock();
  }
  if (request.part().part_case() == v1::SnapshotPart::PART_NOT_SET) {
    return End(absl::UnavailableError("the source sent a message without a part"),
               absl::InvalidArgumentError("a message without a part"));
  }
  v1::FetchSnapshotResponse response;
  *response.mutable_part() = std::move(*request.mutable_part());
  fetch_->Write(std::move(response));
}

void SnapshotRelay::FetchEnded(const absl::Status& status) {
  // A half-close says that the joining replica has all it wants.
  End(status,
      absl::IsCancelled(status) ? absl::CancelledError("the joining replica went away") : status);
}

void SnapshotRelay::ServeEnded(const absl::Status& status) {
  bool closing = !status.ok() && !absl::IsCancelled(status);
  End(closing ? status : absl::UnavailableError("the source ended the snapshot"), status);
}

void SnapshotRelay::End(const absl::Status& to_fetch, const absl::Status& to_serve) {
  std::shared_ptr<ServeSide> serve;
  std::string session;
  {
    absl::MutexLock lock(&mu_);
    if (ended_) return;
    ended_ = true;
    serve = serve_;
    session = session_;
  }
  if (!session.empty()) environment_->snapshots->Remove(session);
  fetch_->End(to_fetch);
  if (serve) serve->End(to_serve);
}

void SnapshotRelay::WatchIdle() {
  absl::Duration limit = environment_->options.snapshot_idle;
  environment_->timers.After(limit / 4, [weak = weak_from_this(), limit] {
    auto self = weak.lock();
    if (!self) return;
    bool idle;
    {
      absl::MutexLock lock(&self->mu_);
      if (self->ended_) return;
      idle = self->environment_->options.clock() - self->moved_ >= limit;
    }
    if (!idle) return self->WatchIdle();
    absl::Status status = absl::DeadlineExceededError(
        absl::StrCat("nothing of the snapshot moved for ", absl::FormatDuration(limit)));
    self->End(status, status);
  });
}

grpc::ServerBidiReactor<v1::FetchSnapshotRequest, v1::FetchSnapshotResponse>* StartFetchSnapshot(
    std::shared_ptr<Environment> environment, grpc::CallbackServerContext* context) {
  auto side = std::make_shared<FetchSide>(environment, context);
  auto relay = std::make_shared<SnapshotRelay>(environment, side);
  FetchSide* reactor = side.get();
  relay->Start();
  side->Start();
  return reactor;
}

grpc::ServerBidiReactor<v1::ServeSnapshotRequest, v1::ServeSnapshotResponse>* StartServeSnapshot(
    std::shared_ptr<Environment> environment, grpc::CallbackServerContext* context) {
  auto side = std::make_shared<ServeSide>(environment, context);
  ServeSide* reactor = side.get();
  std::weak_ptr<ServeSide> weak = side;
  // Until the session is named.
  side->SetEvents({.message =
                       [environment, weak](v1::ServeSnapshotRequest& request) {
                         auto side = weak.lock();
                         if (!side) return;
                         auto relay = environment->snapshots->Take(request.session());
                         if (!relay || !relay->Attach(side)) {
                           side->End(absl::NotFoundError("no such snapshot session"));
                         }
                       },
                   .written = nullptr,
                   .ended =
                       [weak](const absl::Status& status) {
                         if (auto side = weak.lock()) side->End(status);
                       }});
  side->Read();
  side->Start();
  return reactor;
}

}  // namespace intermezzo::forwarder
