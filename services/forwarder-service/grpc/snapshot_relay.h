// One snapshot on its way: see snapshot_sessions.h. Kept alive by its two sides' events.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "intermezzo/forwarder/v1/forwarder.pb.h"
#include "services/forwarder-service/grpc/collection.h"
#include "services/forwarder-service/grpc/environment.h"
#include "services/forwarder-service/grpc/relay_side.h"

namespace intermezzo::forwarder {

using FetchSide = RelaySide<v1::FetchSnapshotRequest, v1::FetchSnapshotResponse>;
using ServeSide = RelaySide<v1::ServeSnapshotRequest, v1::ServeSnapshotResponse>;

class SnapshotRelay : public std::enable_shared_from_this<SnapshotRelay> {
 public:
  SnapshotRelay(std::shared_ptr<Environment> environment, std::shared_ptr<FetchSide> fetch)
      : environment_(std::move(environment)), fetch_(std::move(fetch)) {}

  // Begins with the first request.
  void Start();
  // The source has called. False where the fetching side is gone.
  bool Attach(const std::shared_ptr<ServeSide>& serve);

 private:
  void Asked(v1::FetchSnapshotRequest& request);
  void Admit(bool may_refresh);
  // Orders the next source to serve; ends the fetch where there is none.
  void OrderNext();
  void OrderExpired(const std::string& session);
  void Answered(v1::ServeSnapshotRequest& request);
  void FetchEnded(const absl::Status& status);
  void ServeEnded(const absl::Status& status);
  void End(const absl::Status& to_fetch, const absl::Status& to_serve);
  void WatchIdle();

  const std::shared_ptr<Environment> environment_;
  const std::shared_ptr<FetchSide> fetch_;

  absl::Mutex mu_;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
  bool asked_ ABSL_GUARDED_BY(mu_) = false;
  absl::Time moved_ ABSL_GUARDED_BY(mu_);  // when something last did
  std::string collection_name_ ABSL_GUARDED_BY(mu_);
  std::string node_ ABSL_GUARDED_BY(mu_);
  // The query that waits for the source.
  v1::SnapshotQuery first_query_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<Collection> collection_ ABSL_GUARDED_BY(mu_);
  // Sources not asked yet, the best one last.
  std::vector<std::string> sources_ ABSL_GUARDED_BY(mu_);
  std::string session_ ABSL_GUARDED_BY(mu_);  // of the order that is out
  std::shared_ptr<ServeSide> serve_ ABSL_GUARDED_BY(mu_);
};

}  // namespace intermezzo::forwarder
