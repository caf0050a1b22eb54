#include "services/forwarder-service/grpc/directory.h"

#include <grpcpp/client_context.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/log/log.h"
#include "services/common/status/status.h"

namespace intermezzo::forwarder {
namespace {

constexpr int kPageSize = 1000;

}  // namespace

Directory::Directory(std::unique_ptr<registry::v1::RegistryService::StubInterface> registry,
                     const Options& options)
    : registry_(std::move(registry)), options_(options) {}

void Directory::Start() {
  thread_ = std::thread([this] { Run(); });
}

void Directory::Stop() {
  {
    absl::MutexLock lock(&mu_);
    stopped_ = true;
    if (asking_ != nullptr) asking_->TryCancel();
  }
  if (thread_.joinable()) thread_.join();
}

absl::StatusOr<std::shared_ptr<Collection>> Directory::Find(const std::string& collection) const {
  absl::MutexLock lock(&mu_);
  auto it = collections_.find(collection);
  if (it != collections_.end()) return it->second;
  if (!loaded_) return absl::UnavailableError("the registry was not reached yet");
  return absl::NotFoundError(absl::StrCat("there is no collection ", collection));
}

absl::StatusOr<std::shared_ptr<Collection>> Directory::FindReplica(const std::string& collection,
                                                                   const std::string& node,
                                                                   uint64_t uid) const {
  absl::StatusOr<std::shared_ptr<Collection>> found = Find(collection);
  if (absl::IsNotFound(found.status())) {
    return absl::FailedPreconditionError(found.status().message());
  }
  if (!found.ok()) return found;
  if ((*found)->uid() != uid) {
    return absl::FailedPreconditionError(absl::StrCat(
        "collection ", collection, " has uid ", (*found)->uid(), ", the replica is of ", uid));
  }
  if (!(*found)->Has(node)) {
    return absl::FailedPreconditionError(
        absl::StrCat("node ", node, " has no registered replica of collection ", collection));
  }
  return found;
}

absl::Status Directory::CheckNode(const std::string& node, const std::string& instance,
                                  uint32_t ordinal) const {
  absl::MutexLock lock(&mu_);
  return CheckIncarnation(nodes_, node, instance, ordinal);
}

std::vector<std::shared_ptr<Collection>> Directory::All() const {
  std::vector<std::shared_ptr<Collection>> all;
  absl::MutexLock lock(&mu_);
  for (const auto& [name, collection] : collections_) all.push_back(collection);
  return all;
}

void Directory::Refresh(Done done) {
  {
    absl::MutexLock lock(&mu_);
    if (!stopped_) {
      refreshes_.push_back(std::move(done));
      return;
    }
  }
  done(absl::UnavailableError("the forwarder is stopping"));
}

void Directory::Run() {
  bool failed = false;
  while (true) {
    std::vector<Done> refreshes;
    {
      absl::MutexLock lock(&mu_);
      refreshes.swap(refreshes_);
      if (stopped_) {
        mu_.Unlock();
        for (Done& done : refreshes) done(absl::UnavailableError("the forwarder is stopping"));
        mu_.Lock();
        return;
      }
    }
    absl::StatusOr<Listed> listed = Ask();
    if (listed.ok()) {
      Apply(*listed);
    } else if (!failed) {
      log::Warning("the registry cannot be asked", {{"error", listed.status().ToString()}});
    }
    failed = !listed.ok();
    for (Done& done : refreshes) done(listed.status());

    absl::MutexLock lock(&mu_);
    auto wanted = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
      return stopped_ || !refreshes_.empty();
    };
    mu_.AwaitWithTimeout(absl::Condition(&wanted), options_.poll);
  }
}

absl::StatusOr<Directory::Listed> Directory::Ask() {
  Listed listed;
  // One call of `method`, which Stop() can cancel.
  auto call = [this](auto method, const auto& request, auto* response) -> absl::Status {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + options_.call_timeout));
    {
      absl::MutexLock lock(&mu_);
      if (stopped_) return absl::CancelledError("stopping");
      asking_ = &context;
    }
    grpc::Status status = (registry_.get()->*method)(&context, request, response);
    absl::MutexLock lock(&mu_);
    asking_ = nullptr;
    return FromGrpc(status);
  };

  // Replicas first: a collection that is made in between is then listed without its replicas,
  // never a replica without its collection or its node.
  std::vector<registry::v1::Replica> replicas;
  registry::v1::ListReplicasRequest replicas_request;
  replicas_request.set_page_size(kPageSize);
  do {
    registry::v1::ListReplicasResponse response;
    if (absl::Status status = call(&registry::v1::RegistryService::StubInterface::ListReplicas,
                                   replicas_request, &response);
        !status.ok()) {
      return status;
    }
    for (registry::v1::Replica& replica : *response.mutable_replicas()) {
      replicas.push_back(std::move(replica));
    }
    replicas_request.set_page_token(response.next_page_token());
  } while (!replicas_request.page_token().empty());

  registry::v1::ListCollectionsRequest collections_request;
  collections_request.set_page_size(kPageSize);
  do {
    registry::v1::ListCollectionsResponse response;
    if (absl::Status status = call(&registry::v1::RegistryService::StubInterface::ListCollections,
                                   collections_request, &response);
        !status.ok()) {
      return status;
    }
    for (const registry::v1::Collection& collection : response.collections()) {
      listed.collections[collection.name()].uid = collection.uid();
    }
    collections_request.set_page_token(response.next_page_token());
  } while (!collections_request.page_token().empty());

  registry::v1::ListNodesRequest nodes_request;
  nodes_request.set_page_size(kPageSize);
  do {
    registry::v1::ListNodesResponse response;
    if (absl::Status status = call(&registry::v1::RegistryService::StubInterface::ListNodes,
                                   nodes_request, &response);
        !status.ok()) {
      return status;
    }
    for (const registry::v1::Node& node : response.nodes()) {
      listed.nodes[node.name()] = {node.instance(), node.ordinal(), node.address()};
    }
    nodes_request.set_page_token(response.next_page_token());
  } while (!nodes_request.page_token().empty());

  for (const registry::v1::Replica& replica : replicas) {
    auto it = listed.collections.find(replica.collection());
    if (it != listed.collections.end() && it->second.uid == replica.collection_uid()) {
      it->second.nodes.insert(replica.node());
    }
  }
  return listed;
}

void Directory::Apply(const Listed& listed) {
  std::vector<std::shared_ptr<Collection>> ended;
  std::vector<std::pair<std::shared_ptr<Collection>, const Replicas*>> kept;
  {
    absl::MutexLock lock(&mu_);
    for (auto it = collections_.begin(); it != collections_.end();) {
      auto now = listed.collections.find(it->first);
      if (now == listed.collections.end() || now->second.uid != it->second->uid()) {
        ended.push_back(it->second);
        it = collections_.erase(it);
      } else {
        ++it;
      }
    }
    for (const auto& [name, what] : listed.collections) {
      std::shared_ptr<Collection>& collection = collections_[name];
      if (collection) {
        kept.emplace_back(collection, &what);
        continue;
      }
      // Complete before anybody sees it: without its replicas nothing would hold back trimming.
      collection = std::make_shared<Collection>(name, what.uid, options_);
      collection->SetReplicas(what.nodes);
    }
    nodes_ = listed.nodes;
    loaded_ = true;
  }
  for (auto& collection : ended) {
    collection->End(
        absl::NotFoundError(absl::StrCat("collection ", collection->name(), " was deleted")));
  }
  for (auto& [collection, what] : kept) {
    collection->SetReplicas(what->nodes);
    collection->EndStrangers(listed.nodes);
  }
}

}  // namespace intermezzo::forwarder
