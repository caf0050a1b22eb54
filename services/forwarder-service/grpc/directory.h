// The collections, replicas and nodes that the registry (token-service) knows, asked for once per
// Options::poll and when somebody meets an unknown one. While the registry cannot be reached the
// last list stays in force. Safe from any thread; nothing but Stop() blocks.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "intermezzo/registry/v1/registry.grpc.pb.h"
#include "services/forwarder-service/grpc/collection.h"
#include "services/forwarder-service/grpc/environment.h"
#include "services/forwarder-service/grpc/incarnation.h"

namespace intermezzo::forwarder {

class Directory {
 public:
  // `options` outlives it.
  Directory(std::unique_ptr<registry::v1::RegistryService::StubInterface> registry,
            const Options& options);
  ~Directory() { Stop(); }

  void Start();
  void Stop();

  // NOT_FOUND; UNAVAILABLE while the registry was never reached.
  absl::StatusOr<std::shared_ptr<Collection>> Find(const std::string& collection) const;
  // FAILED_PRECONDITION: no such replica, or the collection has another uid. UNAVAILABLE as above.
  absl::StatusOr<std::shared_ptr<Collection>> FindReplica(const std::string& collection,
                                                          const std::string& node,
                                                          uint64_t uid) const;
  // See CheckIncarnation.
  absl::Status CheckNode(const std::string& node, const std::string& instance,
                         uint32_t ordinal) const;
  std::vector<std::shared_ptr<Collection>> All() const;
  // Asks the registry anew, then calls `done` from the directory's thread: with UNAVAILABLE or the
  // registry's error where it failed. Calls that come together share one question.
  void Refresh(std::function<void(const absl::Status&)> done);

 private:
  using Done = std::function<void(const absl::Status&)>;
  // What the registry said.
  struct Replicas {
    uint64_t uid = 0;
    std::set<std::string> nodes;
  };
  struct Listed {
    std::map<std::string, Replicas> collections;
    Incarnations nodes;
  };

  void Run();
  absl::StatusOr<Listed> Ask();
  void Apply(const Listed& listed);

  const std::unique_ptr<registry::v1::RegistryService::StubInterface> registry_;
  const Options& options_;

  mutable absl::Mutex mu_;
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
  bool loaded_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<Done> refreshes_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, std::shared_ptr<Collection>> collections_ ABSL_GUARDED_BY(mu_);
  Incarnations nodes_ ABSL_GUARDED_BY(mu_);
  // The question that is out now, so that Stop() can cancel it.
  grpc::ClientContext* asking_ ABSL_GUARDED_BY(mu_) = nullptr;
  std::thread thread_;
};

}  // namespace intermezzo::forwarder
