#include "services/token-service/registry/registry.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "services/common/record/codec.h"
#include "services/common/types/names.h"
#include "services/common/types/numbers.h"
#include "services/token-service/registry/request_memory.h"

namespace intermezzo::token {

using storage::v1::COLLECTION_PHASE_DELETING;
using storage::v1::COLLECTION_PHASE_READY;

absl::Status CheckRequestId(const std::string& request_id) {
  constexpr size_t kLongest = 128;
  if (request_id.size() <= kLongest) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("request_id has ", request_id.size(), " bytes; use at most ", kLongest));
}

std::string RequestFingerprint(const google::protobuf::Message& request) {
  const std::string hash = Xxh3(request.SerializeAsString());
  return absl::StrCat(request.GetDescriptor()->name(), ":", absl::BytesToHexString(hash));
}

absl::Status RequestIdReused(const std::string& request_id) {
  return absl::InvalidArgumentError(
      absl::StrCat("request_id \"", absl::CHexEscape(request_id),
                   "\" was used for another request: use a new one for each change"));
}

Registry::Registry(RegistryOptions options, const StoreContents& contents, TokenStore& store,
                   JournalControl& journal, RegistryListener& listener, Metrics* metrics)
    : options_(std::move(options)),
      store_(store),
      journal_(journal),
      listener_(listener),
      metrics_(metrics) {
  std::vector<std::string> deleting;
  {
    absl::MutexLock lock(&mu_);
    state_ = contents.state;
    incarnations_ = contents.incarnations;
    for (const auto& row : contents.nodes) {
      // Before the restart it may have been here a moment ago.
      nodes_[row.name()] = NodeState{row, options_.now(), 0};
    }
    for (const auto& row : contents.collections) {
      CollectionState& collection = collections_[row.collection().name()];
      collection.row = row;
      auto grant = contents.grants.find(row.collection().uid());
      if (grant != contents.grants.end()) collection.last_epoch = grant->second.epoch;
      if (row.phase() == COLLECTION_PHASE_DELETING) deleting.push_back(row.collection().name());
    }
    for (const auto& row : contents.replicas) replicas_[{row.collection(), row.node()}] = row;
    requests_ = contents.requests;
    for (const auto& [number, row] : requests_) request_numbers_[row.request_id()] = number;
  }
  worker_ = std::make_unique<Worker>(options_.waiting_changes);
  for (const std::string& name : deleting) {
    registry::v1::DeleteCollectionRequest request;
    request.set_name(name);
    DeleteCollection(request, [](const auto&) {});
  }
}

Registry::~Registry() = default;

void Registry::RegisterNode(const registry::v1::RegisterNodeRequest& request,
                            Done<registry::v1::RegisterNodeResponse> done) {
  Post(request, done, [this, request, done] { done(DoRegisterNode(request)); });
}

absl::StatusOr<registry::v1::RegisterNodeResponse> Registry::DoRegisterNode(
    const registry::v1::RegisterNodeRequest& request) {
  if (request.protocol_version() != kProtocolVersion) {
    return absl::FailedPreconditionError(absl::StrCat(
        "node \"", absl::CHexEscape(request.node().name().substr(0, 80)),
        "\" speaks protocol version ", request.protocol_version(), ", this service version ",
        kProtocolVersion, ": install the same release on both"));
  }
  registry::v1::Node node = request.node();
  if (auto name = NodeName::Parse(node.name()); !name.ok()) return name.status();
  const bool good_instance = !node.instance().empty() && node.instance().size() <= 64 &&
                             std::all_of(node.instance().begin(), node.instance().end(),
                                         [](char c) { return absl::ascii_isalnum(c) || c == '-'; });
  if (!good_instance) {
    return absl::InvalidArgumentError(
        absl::StrCat("instance \"", absl::CHexEscape(node.instance().substr(0, 80)),
                     "\" of node \"", node.name(), "\" is not valid: use a uuid"));
  }
  if (node.address().size() > 300) {
    return absl::InvalidArgumentError(
        absl::StrCat("address of node \"", node.name(), "\" is too long: use host:port"));
  }
  node.clear_connected();

  StoreChange change;
  {
    absl::MutexLock lock(&mu_);
    auto present = nodes_.find(node.name());
    if (present != nodes_.end()) {
      NodeState& other = present->second;
      if (other.row.instance() != node.instance() && Alive(other)) {
        const absl::Duration wait = options_.alive_after_call - (options_.now() - other.seen);
        return absl::AlreadyExistsError(absl::StrCat(
            "node name \"", node.name(), "\" is in use by instance ", other.row.instance(), " at ",
            other.row.address(), "; this is instance ", node.instance(), " at ", node.address(),
            ". Give one of them another name. If the first is gone for good, try again ",
            other.watches > 0
                ? std::string("when its connection has ended")
                : absl::StrCat("in ", absl::FormatDuration(absl::Ceil(wait, absl::Seconds(1))))));
      }
      if (other.row.instance() == node.instance()) {
        other.seen = options_.now();
        node.set_ordinal(other.row.ordinal());
      }
    }
    if (auto known = incarnations_.find({node.name(), node.instance()});
        known != incarnations_.end()) {
      node.set_ordinal(known->second);
    } else {
      storage::v1::TokenServiceRow& state = NextState(change);
      if (state.last_ordinal() >= kMaxOrdinal) {
        return absl::ResourceExhaustedError("all ordinals for incarnations of nodes are used up");
      }
      state.set_last_ordinal(state.last_ordinal() + 1);
      node.set_ordinal(state.last_ordinal());
    }
    const bool same = present != nodes_.end() &&
                      present->second.row.SerializeAsString() == node.SerializeAsString();
    if (!same) change.nodes.push_back(node);
  }
  if (!change.nodes.empty()) {
    if (absl::Status status = Commit(change); !status.ok()) return status;
  }
  registry::v1::RegisterNodeResponse response;
  response.set_ordinal(node.ordinal());
  return response;
}

bool Registry::Alive(const NodeState& node) const {
  return node.watches > 0 || options_.now() - node.seen < options_.alive_after_call;
}

absl::Status Registry::NoSuchNode(const std::string& name) const {
  constexpr size_t kNamed = 20;
  std::string known;
  size_t count = 0;
  for (const auto& [other, state] : nodes_) {
    if (++count > kNamed) continue;
    absl::StrAppend(&known, known.empty() ? "" : ", ", other);
  }
  if (count > kNamed) absl::StrAppend(&known, " and ", count - kNamed, " more");
  return absl::NotFoundError(
      absl::StrCat("no node \"", absl::CHexEscape(name.substr(0, 80)),
                   "\" has registered; there are: ", known.empty() ? "none" : known));
}

absl::Status Registry::CheckNodeLocked(const Holder& holder) {
  auto it = nodes_.find(holder.node);
  if (it == nodes_.end()) {
    return absl::FailedPreconditionError(absl::StrCat("node \"",
                                                      absl::CHexEscape(holder.node.substr(0, 80)),
                                                      "\" is not registered: register it first"));
  }
  if (it->second.row.instance() != holder.instance) {
    return absl::FailedPreconditionError(absl::StrCat(
        "instance ", absl::CHexEscape(holder.instance.substr(0, 80)), " of node \"", holder.node,
        "\" is not the registered one, ", it->second.row.instance(), ": register it again"));
  }
  it->second.seen = options_.now();
  return absl::OkStatus();
}

absl::Status Registry::CheckNode(const Holder& holder) {
  absl::MutexLock lock(&mu_);
  return CheckNodeLocked(holder);
}

absl::Status Registry::CheckHolder(const std::string& collection, const Holder& holder) {
  absl::MutexLock lock(&mu_);
  if (Ready(collection) == nullptr) {
    return absl::NotFoundError(
        absl::StrCat("no collection \"", absl::CHexEscape(collection.substr(0, 80)), "\""));
  }
  if (absl::Status status = CheckNodeLocked(holder); !status.ok()) return status;
  if (replicas_.contains({collection, holder.node})) return absl::OkStatus();
  return absl::PermissionDeniedError(
      absl::StrCat("node \"", holder.node, "\" has no replica of collection \"", collection, "\""));
}

const Registry::CollectionState* Registry::Ready(const std::string& name) const {
  auto it = collections_.find(name);
  if (it == collections_.end() || it->second.row.phase() != COLLECTION_PHASE_READY) return nullptr;
  return &it->second;
}

absl::StatusOr<uint64_t> Registry::Watch(const Holder& holder, std::function<void()> changed) {
  absl::MutexLock lock(&mu_);
  if (absl::Status status = CheckNodeLocked(holder); !status.ok()) return status;
  const uint64_t id = next_watch_++;
  watchers_[id] = Watcher{holder.node, std::make_shared<std::function<void()>>(std::move(changed))};
  ++nodes_[holder.node].watches;
  if (metrics_ != nullptr) {
    metrics_->SetNodesConnected(static_cast<int>(std::count_if(
        nodes_.begin(), nodes_.end(), [](const auto& node) { return node.second.watches > 0; })));
  }
  return id;
}

void Registry::Unwatch(uint64_t watch) {
  absl::MutexLock lock(&mu_);
  auto it = watchers_.find(watch);
  if (it == watchers_.end()) return;
  NodeState& node = nodes_[it->second.node];
  --node.watches;
  node.seen = options_.now();
  watchers_.erase(it);
  if (metrics_ != nullptr) {
    metrics_->SetNodesConnected(static_cast<int>(std::count_if(
        nodes_.begin(), nodes_.end(), [](const auto& other) { return other.second.watches > 0; })));
  }
}

registry::v1::WatchReplicasResponse Registry::ReplicasOf(const std::string& node) const {
  registry::v1::WatchReplicasResponse response;
  absl::MutexLock lock(&mu_);
  for (const auto& [key, replica] : replicas_) {
    if (key.second == node) *response.add_replicas() = replica;
  }
  return response;
}

void Registry::TellWatchers(const std::vector<std::string>& nodes) {
  std::vector<std::shared_ptr<std::function<void()>>> sinks;
  {
    absl::MutexLock lock(&mu_);
    for (const auto& [id, watcher] : watchers_) {
      if (std::find(nodes.begin(), nodes.end(), watcher.node) != nodes.end()) {
        sinks.push_back(watcher.changed);
      }
    }
  }
  for (const auto& sink : sinks) (*sink)();
}

storage::v1::TokenServiceRow& Registry::NextState(StoreChange& change) const {
  if (!change.state.has_value()) change.state = state_;
  return *change.state;
}

absl::Status Registry::Commit(const StoreChange& change) {
  if (absl::Status status = store_.Commit(change); !status.ok()) return status;
  absl::MutexLock lock(&mu_);
  Apply(change);
  return absl::OkStatus();
}

void Registry::Apply(const StoreChange& change) {
  if (change.state.has_value()) state_ = *change.state;
  for (const auto& row : change.nodes) {
    incarnations_[{row.name(), row.instance()}] = row.ordinal();
    NodeState& node = nodes_[row.name()];
    node.row = row;
    node.seen = options_.now();
  }
  for (const auto& row : change.collections) collections_[row.collection().name()].row = row;
  for (const auto& name : change.dropped_collections) collections_.erase(name);
  for (const auto& row : change.replicas) replicas_[{row.collection(), row.node()}] = row;
  for (const auto& key : change.dropped_replicas) replicas_.erase(key);
  for (const auto& [number, row] : change.requests) {
    requests_[number] = row;
    request_numbers_[row.request_id()] = number;
  }
  for (uint64_t number : change.dropped_requests) {
    request_numbers_.erase(requests_[number].request_id());
    requests_.erase(number);
  }
}

}  // namespace intermezzo::token
