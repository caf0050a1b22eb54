// Registry: creation and deletion of collections. Each has a durable intention before the journal
// is called, so that whatever is cut off can be taken up again.
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "services/common/config/config.h"
#include "services/common/log/log.h"
#include "services/common/types/names.h"
#include "services/token-service/registry/registry.h"
#include "services/token-service/registry/request_memory.h"

namespace intermezzo::token {
namespace {

using registry::v1::Collection;
using registry::v1::CreateCollectionRequest;
using registry::v1::CreateCollectionResponse;
using registry::v1::DeleteCollectionRequest;
using registry::v1::DeleteCollectionResponse;
using storage::v1::COLLECTION_PHASE_CREATING;
using storage::v1::COLLECTION_PHASE_DELETING;
using storage::v1::COLLECTION_PHASE_READY;

absl::Status CheckCollection(const Collection& collection) {
  if (auto name = CollectionName::Parse(collection.name()); !name.ok()) return name.status();
  if (collection.uid() != 0) {
    return absl::InvalidArgumentError("collection.uid is given by the server: leave it 0");
  }
  if (!registry::v1::OfflineWrites_IsValid(collection.offline_writes())) {
    return absl::InvalidArgumentError(absl::StrCat("collection.offline_writes has no value ",
                                                   static_cast<int>(collection.offline_writes())));
  }
  const auto& retention = collection.retention();
  constexpr int64_t kTenYears = int64_t{10} * 366 * 24 * 3600;
  if (retention.seconds() < 0 || retention.seconds() > kTenYears || retention.nanos() < 0 ||
      retention.nanos() > 999'999'999) {
    return absl::InvalidArgumentError("collection.retention must be between 0 and ten years");
  }
  return absl::OkStatus();
}

absl::Status NoSuchCollection(const std::string& name) {
  return absl::NotFoundError(
      absl::StrCat("no collection \"", absl::CHexEscape(name.substr(0, 80)), "\""));
}

absl::Status Busy(const std::string& name) {
  return absl::AbortedError(absl::StrCat("collection \"", name,
                                         "\" is being created or deleted by another call right "
                                         "now: try again"));
}

// What the journal-service said, in the words of the caller's request.
absl::Status JournalFailed(const std::string& what, const absl::Status& journal) {
  return absl::Status(
      journal.code(),
      absl::StrCat(what, ", the journal-service answered: ", journal.message(), ". Try again"));
}

}  // namespace

void Registry::CreateCollection(const CreateCollectionRequest& request,
                                Done<CreateCollectionResponse> done) {
  Post(request, done, [this, request, done] { DoCreateCollection(request, done); });
}

void Registry::DoCreateCollection(const CreateCollectionRequest& request,
                                  const Done<CreateCollectionResponse>& done) {
  if (absl::Status status = CheckCollection(request.collection()); !status.ok()) {
    done(status);
    return;
  }
  const std::string& name = request.collection().name();
  StoreChange change;
  storage::v1::CollectionRow row;
  absl::Status refused;
  std::optional<CreateCollectionResponse> before;
  {
    absl::MutexLock lock(&mu_);
    auto remembered = Remembered<CreateCollectionResponse>(request);
    auto it = collections_.find(name);
    if (!remembered.ok()) {
      refused = remembered.status();
    } else if (remembered->has_value()) {
      before = **remembered;
    } else if (it == collections_.end()) {
      storage::v1::TokenServiceRow& state = NextState(change);
      state.set_last_collection_uid(state.last_collection_uid() + 1);
      row.mutable_collection()->set_uid(state.last_collection_uid());
    } else if (it->second.busy) {
      refused = Busy(name);
    } else if (it->second.row.phase() == COLLECTION_PHASE_READY) {
      refused = absl::AlreadyExistsError(absl::StrCat("collection \"", name, "\" exists"));
    } else if (it->second.row.phase() == COLLECTION_PHASE_DELETING) {
      refused = absl::FailedPreconditionError(
          absl::StrCat("an earlier collection \"", name,
                       "\" is not wholly deleted yet: repeat its deletion, then create it"));
    } else {
      // An earlier attempt was cut off: the journal may be there, under this uid.
      row.mutable_collection()->set_uid(it->second.row.collection().uid());
    }
  }
  if (before.has_value()) return done(*before);
  if (!refused.ok()) return done(refused);

  const uint64_t uid = row.collection().uid();
  *row.mutable_collection() = request.collection();
  row.mutable_collection()->set_uid(uid);
  if (row.collection().offline_writes() == registry::v1::OFFLINE_WRITES_UNSPECIFIED) {
    row.mutable_collection()->set_offline_writes(registry::v1::OFFLINE_WRITES_ALLOW);
  }
  row.set_phase(COLLECTION_PHASE_CREATING);
  change.collections.push_back(row);
  if (absl::Status status = Commit(change); !status.ok()) return done(status);
  {
    absl::MutexLock lock(&mu_);
    collections_[name].busy = true;
  }
  journal_.CreateJournal(name, uid, FromProto(row.collection().retention()),
                         [this, request, done](const absl::Status& journal) {
                           worker_->PostAlways([this, request, done, journal] {
                             done(FinishCreate(request, journal));
                           });
                         });
}

absl::StatusOr<CreateCollectionResponse> Registry::FinishCreate(
    const CreateCollectionRequest& request, const absl::Status& journal) {
  const std::string& name = request.collection().name();
  StoreChange change;
  CreateCollectionResponse response;
  Epoch floor;
  {
    absl::MutexLock lock(&mu_);
    CollectionState& state = collections_[name];
    state.busy = false;
    if (!journal.ok()) {
      return JournalFailed(absl::StrCat("collection \"", name, "\" was not created"), journal);
    }
    storage::v1::CollectionRow row = state.row;
    row.set_phase(COLLECTION_PHASE_READY);
    *response.mutable_collection() = row.collection();
    change.collections.push_back(std::move(row));
    Remember(request, response, change);
    floor = Epoch(state_.epoch_floor());
  }
  if (absl::Status status = Commit(change); !status.ok()) return status;
  listener_.CollectionReady(name, response.collection().uid(), floor);
  log::Info("collection created", {{"collection", name}});
  return response;
}

void Registry::DeleteCollection(const DeleteCollectionRequest& request,
                                Done<DeleteCollectionResponse> done) {
  Post(request, done, [this, request, done] { DoDeleteCollection(request, done); });
}

void Registry::DoDeleteCollection(const DeleteCollectionRequest& request,
                                  const Done<DeleteCollectionResponse>& done) {
  const std::string& name = request.name();
  StoreChange change;
  absl::Status refused;
  std::optional<DeleteCollectionResponse> before;
  bool ready = false;
  std::vector<std::string> nodes;
  {
    absl::MutexLock lock(&mu_);
    auto remembered = Remembered<DeleteCollectionResponse>(request);
    auto it = collections_.find(name);
    if (!remembered.ok()) {
      refused = remembered.status();
    } else if (remembered->has_value()) {
      before = **remembered;
    } else if (it == collections_.end() || it->second.row.phase() == COLLECTION_PHASE_CREATING) {
      // One whose creation was cut off is nobody's; a journal of that name may be another's.
      refused = NoSuchCollection(name);
    } else if (it->second.busy) {
      refused = Busy(name);
    } else if (it->second.row.phase() == COLLECTION_PHASE_READY) {
      ready = true;
      for (auto replica = replicas_.lower_bound({name, ""});
           replica != replicas_.end() && replica->first.first == name; ++replica) {
        nodes.push_back(replica->first.second);
        change.dropped_replicas.push_back(replica->first);
      }
      if (!nodes.empty() && !request.force()) {
        refused = absl::FailedPreconditionError(absl::StrCat(
            "collection \"", name, "\" has ", nodes.size(), " replicas, on ", nodes.front(),
            nodes.size() > 1 ? " and others" : "", ": remove them first, or use force"));
      }
      storage::v1::CollectionRow row = it->second.row;
      row.set_phase(COLLECTION_PHASE_DELETING);
      change.collections.push_back(std::move(row));
    }
  }
  if (before.has_value()) return done(*before);
  if (!refused.ok()) return done(refused);
  if (ready) {
    if (absl::Status status = Commit(change); !status.ok()) return done(status);
    TellWatchers(nodes);
  }
  const Epoch last = ready ? listener_.CollectionGone(name) : Epoch();
  {
    absl::MutexLock lock(&mu_);
    CollectionState& state = collections_[name];
    state.busy = true;
    state.last_epoch = std::max(state.last_epoch, last);
  }
  journal_.DeleteJournal(name, [this, request, done](const absl::Status& journal) {
    worker_->PostAlways([this, request, done, journal] { done(FinishDelete(request, journal)); });
  });
}

absl::StatusOr<DeleteCollectionResponse> Registry::FinishDelete(
    const DeleteCollectionRequest& request, const absl::Status& journal) {
  const std::string& name = request.name();
  StoreChange change;
  DeleteCollectionResponse response;
  {
    absl::MutexLock lock(&mu_);
    CollectionState& state = collections_[name];
    state.busy = false;
    if (!journal.ok() && !absl::IsNotFound(journal)) {
      return JournalFailed(absl::StrCat("the journal of collection \"", name, "\" was not removed"),
                           journal);
    }
    storage::v1::TokenServiceRow& next = NextState(change);
    next.set_epoch_floor(std::max(next.epoch_floor(), state.last_epoch.value()));
    change.dropped_collections.push_back(name);
    change.dropped_grants.push_back(state.row.collection().uid());
    Remember(request, response, change);
  }
  if (absl::Status status = Commit(change); !status.ok()) return status;
  log::Info("collection deleted", {{"collection", name}});
  return response;
}

}  // namespace intermezzo::token
